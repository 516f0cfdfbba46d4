"""Serving: one Ray Serve application that ranks known and brand-new items with a release from the registry."""

from coldstart.serving.application import build, deploy, shutdown

__all__ = ["build", "deploy", "shutdown"]
