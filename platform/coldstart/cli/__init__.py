"""The `coldstart` command: thin verbs over the library and the workloads."""

from coldstart.cli.verbs import main

__all__ = ["main"]
