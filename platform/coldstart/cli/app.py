"""What all verbs share: the app, its options, and how a mistake is told; exit code 2 is one the user can mend."""

import sys
from typing import Annotated

import typer
from rich.console import Console

from coldstart.config import Recipe, UserError, load_recipe
from coldstart.config.permission import permit

app = typer.Typer(
    name="coldstart",
    help="Give brand-new items a place in the ID-embedding space of a running CTR ranker.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

RecipeName = Annotated[str, typer.Option("--recipe", "-r", help="Shipped recipe name or YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", "-s", metavar="SECTION.FIELD=VALUE", help="Override a setting; repeatable.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
OUT = Console(highlight=False)


def main() -> None:
    """Entry point of the `coldstart` command."""
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def load(name: str, overrides: list[str] | None) -> Recipe:
    """The recipe given by shipped name or by file, with overrides."""
    from workloads.job import find_recipe

    recipe = load_recipe(find_recipe(name), overrides or ())
    permit(recipe.ranker.kind)
    return recipe
