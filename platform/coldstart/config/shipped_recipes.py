"""The shipped recipes, and how a recipe is found by name."""

import os
from pathlib import Path

from coldstart.config.errors import UserError
from coldstart.config.loading import IN_VARIABLE

_INSTALLED = Path(__file__).parents[1] / "recipes"
RECIPES = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[3] / "workloads" / "recipes"
"""A wheel has the recipes in its package; a checkout has them beside the jobs."""


def find_recipe(name: str) -> Path:
    """Returns the path of a shipped recipe (by name), of a recipe file, or `env:NAME` for one in a variable.

    Raises:
        UserError: `name` is neither.
    """
    if name.startswith(IN_VARIABLE) and name.removeprefix(IN_VARIABLE) in os.environ:
        return Path(name)
    shipped = RECIPES / f"{name}.yaml"
    if shipped.is_file():
        return shipped
    if Path(name).is_file():
        return Path(name)
    known = ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))
    raise UserError(f"no recipe '{name}': pass the path of a YAML file or a shipped recipe ({known})")
