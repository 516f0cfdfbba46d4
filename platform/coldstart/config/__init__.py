"""Typed recipes and the contracts every room may rely on: errors, artifacts, journals."""

from coldstart.config.artifact import Artifact, read_artifact, write_artifact
from coldstart.config.errors import UserError
from coldstart.config.journal import Journal
from coldstart.config.loading import digest, dump_recipe, joined, load_recipe
from coldstart.config.recipe import Recipe

__all__ = [
    "Artifact",
    "Journal",
    "Recipe",
    "UserError",
    "digest",
    "dump_recipe",
    "joined",
    "load_recipe",
    "read_artifact",
    "write_artifact",
]
