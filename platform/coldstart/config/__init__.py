"""Typed recipes, and what every package uses: the error class, artifacts, metrics logs."""

from coldstart.config.artifact import Artifact, check_same_artifact, read_artifact, write_artifact
from coldstart.config.directories import check_run_dir, check_writable
from coldstart.config.errors import UserError
from coldstart.config.loading import digest, dump_recipe, flatten_keys, load_recipe, resolve_recipe, store_recipe
from coldstart.config.metrics_log import MetricsLog
from coldstart.config.recipe import Recipe

__all__ = [
    "Artifact",
    "MetricsLog",
    "Recipe",
    "UserError",
    "check_run_dir",
    "check_same_artifact",
    "check_writable",
    "digest",
    "dump_recipe",
    "flatten_keys",
    "load_recipe",
    "read_artifact",
    "resolve_recipe",
    "store_recipe",
    "write_artifact",
]
