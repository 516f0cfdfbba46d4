"""The `coldstart` command: thin verbs over the library and the workloads, one module per group of verbs."""

from coldstart.cli import (
    cluster_jobs,
    datasets,
    evaluations,
    import_export,
    inputs,
    models,
    plan,
    programs,
    recipes,
    tokens,
)
from coldstart.cli.app import main

__all__ = [
    "cluster_jobs",
    "datasets",
    "evaluations",
    "import_export",
    "inputs",
    "main",
    "models",
    "plan",
    "programs",
    "recipes",
    "tokens",
]
