"""The `coldstart` command: thin verbs over the library and the workloads, one module per group."""

from coldstart.cli import bring, evaluations, inputs, models, plan, programs, recipes, tokens
from coldstart.cli.app import main

__all__ = ["bring", "evaluations", "inputs", "main", "models", "plan", "programs", "recipes", "tokens"]
