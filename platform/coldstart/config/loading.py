"""Loading a recipe from YAML with `--set` overrides, dumping it, and hashing it."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from coldstart.config.errors import UserError
from coldstart.config.recipe import Recipe
from coldstart.config.recipe.method import METHOD_NAMES
from coldstart.config.recipe.synonyms import right_keys
from coldstart.config.section import UnknownKeyError
from coldstart.config.yaml_file import read_yaml

IN_VARIABLE = "env:"
"""`env:NAME` stands for a recipe as JSON in an environment variable; so it travels with a job."""


def load_recipe(path: Path, overrides: Iterable[str] = ()) -> Recipe:
    """Reads a recipe file, or `env:NAME`, and applies overrides of the form `section.field=value` (the value is YAML).

    Raises:
        UserError: the file is missing, not UTF-8 or not YAML, a key is there twice, or a setting is unknown or invalid.
    """
    if str(path).startswith(IN_VARIABLE):
        values = json.loads(os.environ[str(path).removeprefix(IN_VARIABLE)])
        return resolve_recipe(values, overrides, "the recipe of the job")
    if not path.is_file():
        raise UserError(f"recipe file {path} does not exist; `coldstart recipes` lists the shipped recipes")
    values = read_yaml(path)
    if values is None:
        raise UserError(f"recipe file {path} is empty; it needs at least `name: ...` (see `coldstart show demo`)")
    if not isinstance(values, dict):
        raise UserError(f"recipe file {path} must contain a mapping of sections, not a {type(values).__name__}")
    return resolve_recipe(values, overrides, f"recipe {path}")


def resolve_recipe(values: dict[str, Any], overrides: Iterable[str], source: str) -> Recipe:
    """Applies overrides to the values of a recipe and checks it.

    Args:
        values: Sections and their settings; the overrides are added to them.
        overrides: Settings in the form `section.field=value`.
        source: Where the values come from, for error messages.

    Raises:
        UserError: a setting is unknown or invalid.
    """
    for override in overrides:
        _apply(values, override)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{source}: {_first_problems(error)}") from error


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"override '{override}' must have the form section.field=value")
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
    return "; ".join(_describe(problem) for problem in error.errors()[:most])


def _describe(problem: ErrorDetails) -> str:
    """One problem, preceded by the dotted key of the setting, followed by its value."""
    place = list(problem["loc"])
    if place[:1] == ["method"] and place[1:2] and place[1] in METHOD_NAMES:
        del place[1]  # Pydantic's name of the chosen class, which is no key of the recipe.
    where = ".".join(str(part) for part in place)
    cause = problem.get("ctx", {}).get("error")
    section = ".".join(part for part in place if isinstance(part, str))  # without positions in lists
    if isinstance(cause, UnknownKeyError) and (right := right_keys(section, cause.key)):
        message = f"unknown key '{cause.key}': use {' or '.join(right)}"
    else:
        message = problem["msg"].removeprefix("Value error, ")
    value = problem["input"]
    shown = "" if isinstance(value, dict | Recipe) else f" (got {value!r})"
    return f"{where + ': ' if where else ''}{message}{shown}"


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)


def store_recipe(recipe: Recipe) -> Path:
    """Creates the run directory and writes the resolved recipe into it; returns that file.

    Raises:
        UserError: the directory is not writable.
    """
    file = recipe.run_dir / "recipe.yaml"
    try:
        recipe.run_dir.mkdir(parents=True, exist_ok=True)
        file.write_text(dump_recipe(recipe))
    except OSError as error:
        raise UserError(
            f"the run directory {recipe.run_dir} is not writable ({error.strerror}); set paths.runs to one that is"
        ) from error
    return file


def flatten_keys(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the settings of nested sections under dotted keys, `section.field`."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten_keys(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def digest(value: Any) -> str:
    """sha256 of a JSON value or a recipe section; independent of the order of keys."""
    if hasattr(value, "model_dump"):
        value = value.model_dump(mode="json")
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
