"""The options that the commands about registered models share, as one object."""

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from coldstart.cli.app import AsJson, Overrides, RecipeName, app, load
from coldstart.config import Recipe, check_writable

if TYPE_CHECKING:
    from coldstart.registry import Registry


@dataclass(frozen=True)
class Project:
    """The project that a command works on, from `--recipe`, `--set` and `--json`."""

    recipe_name: RecipeName = "demo"
    overrides: Overrides = None
    as_json: AsJson = False

    @cached_property
    def recipe(self) -> Recipe:
        """The resolved recipe."""
        recipe = load(self.recipe_name, self.overrides)
        if recipe.registry.tracking_uri is None:  # the registry is a database in paths.runs
            check_writable(recipe.paths.runs, "set paths.runs to a directory that is")
        return recipe

    @cached_property
    def registry(self) -> "Registry":
        """The project's registry."""
        from coldstart.registry import Registry

        return Registry(self.recipe.tracking_uri, self.recipe.project)

    def print_json(self, value: Any) -> bool:
        """Prints `value` as JSON if `--json` was given, and returns whether it was."""
        if self.as_json:
            print(json.dumps(value))
        return self.as_json


def project_command(name: str | None = None, *, example: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Registers a function as a command and adds the options of `Project`, which becomes its first argument."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        shared = list(inspect.signature(Project).parameters.values())
        _, *own = inspect.signature(function).parameters.values()

        def run(**arguments: Any) -> None:
            project = Project(**{parameter.name: arguments.pop(parameter.name) for parameter in shared})
            # A mistake in the recipe is reported before the command imports the registry, which takes seconds.
            _ = project.recipe
            function(project, **arguments)

        # Typer reads options from the signature; keyword-only parameters may have defaults in any order.
        options = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*own, *shared)]
        run.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
        run.__name__, run.__doc__ = function.__name__, function.__doc__
        app.command(name, epilog=f"Example: {example}")(run)
        return function

    return register
