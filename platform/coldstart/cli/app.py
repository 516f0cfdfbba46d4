"""What all verbs share: the app, its common options, and how errors are printed.

Verbs import the libraries they need inside their functions, after the recipe is checked: help texts and recipe errors
must answer without loading PyTorch or Ray.
"""

import sys
from typing import Annotated

import typer
from rich.console import Console

from coldstart.config import Recipe, UserError, check_run_dir, load_recipe, runtime_env
from coldstart.config.errors import storage_problem
from coldstart.config.import_allowlist import allow_import

app = typer.Typer(
    name="coldstart",
    help="Give brand-new items a place in the ID-embedding space of a running CTR ranker.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

RecipeName = Annotated[str, typer.Option("--recipe", "-r", help="Name of a shipped recipe, or a YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", "-s", metavar="SECTION.FIELD=VALUE", help="Override a setting; repeatable.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
OUT = Console(highlight=False)


def main() -> None:
    """Entry point of the `coldstart` command. A `UserError` is printed without a traceback; the exit code is 2."""
    runtime_env.set_user_defaults()
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        if (problem := storage_problem(error)) is None:
            raise
        print(f"error: {problem}", file=sys.stderr)
        raise SystemExit(2) from None


def load(name: str, overrides: list[str] | None, *, writes: bool = False) -> Recipe:
    """Loads a shipped recipe or a recipe file, with overrides, and allows the import of its ranker class.

    Args:
        name: Of the recipe, or its file.
        overrides: Settings in the form `section.field=value`.
        writes: Whether the command writes to the run directory.

    Raises:
        UserError: the recipe does not exist, a setting is invalid, or the run directory is not writable.
    """
    from coldstart.config.shipped_recipes import find_recipe

    recipe = load_recipe(find_recipe(name), overrides or ())
    allow_import(recipe.ranker.kind)
    if writes:
        check_run_dir(recipe)
    return recipe
