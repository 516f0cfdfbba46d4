"""From a YAML file and `--set` overrides to a validated recipe, and from a recipe to its hash."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from coldstart.config.errors import UserError
from coldstart.config.recipe import Recipe


def load_recipe(path: Path, overrides: Iterable[str] = ()) -> Recipe:
    """Reads a recipe file and applies overrides of the form `section.field=value` (value in YAML).

    Raises:
        UserError: the file is missing or not YAML, or a setting is unknown or out of range.
    """
    if not path.is_file():
        raise UserError(f"recipe file {path} does not exist; `coldstart recipes` lists those that are shipped")
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"recipe file {path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"recipe file {path} must hold a mapping of sections, not {type(values).__name__}")
    for override in overrides:
        _apply(values, override)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise UserError(f"recipe {path}: {_first_problems(error)}") from error


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"override '{override}' must look like section.field=value")
    *parents, last = key.split(".")
    node = values
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise UserError(f"override '{override}': '{parent}' is not a section")
        node = child
    try:
        node[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"override '{override}': the value is not valid YAML") from error


def _first_problems(error: ValidationError, most: int = 3) -> str:
    lines = []
    for problem in error.errors()[:most]:
        where = ".".join(str(part) for part in problem["loc"])
        what = problem["msg"].removeprefix("Value error, ")
        given = problem["input"]
        shown = f" (got {given!r})" if not isinstance(given, dict | Recipe) else ""
        lines.append(f"{where + ': ' if where else ''}{what}{shown}")
    return "; ".join(lines)


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)


def joined(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """The settings of nested sections under joined names, `section.field`."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from joined(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def digest(value: Any) -> str:
    """Stable sha256 of anything JSON can hold (sections are dumped first)."""
    if hasattr(value, "model_dump"):
        value = value.model_dump(mode="json")
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
