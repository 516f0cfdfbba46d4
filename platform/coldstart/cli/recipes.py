"""Verbs for recipes: check, list, print."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from coldstart.cli.app import OUT, AsJson, Overrides, app, load
from coldstart.config import Recipe, digest, dump_recipe

RecipeArgument = Annotated[str, typer.Argument(help="Name of a shipped recipe, or a YAML file.")]


@app.command(epilog="Example: coldstart validate movielens --set data.files.root=films")
def validate(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    deep: Annotated[bool, typer.Option("--deep", help="Read every row as `prepare` does; write nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check a recipe, and the files and the MLLM that it names if they are on this machine."""
    loaded = load(recipe, overrides)
    deep &= loaded.data.source == "files"
    notes = _check_local_inputs(loaded, files=not deep)
    details = {}
    if deep:
        from coldstart.data.deep_check import check_all_rows

        report = check_all_rows(loaded.data, loaded.seed)
        notes, details = [*notes, *report.lines], {"data": report.details}
    if as_json:
        print(json.dumps({"recipe": loaded.name, "hash": digest(loaded), "valid": True, "notes": notes, **details}))
        return
    OUT.print(f"recipe '{loaded.name}' is valid  [dim]{digest(loaded)[:12]}[/]")
    for note in notes:
        OUT.print(f"note: {note}", soft_wrap=True)


def _check_local_inputs(recipe: Recipe, *, files: bool) -> list[str]:
    """Checks the files (if asked to) and the MLLM of a recipe, and returns notes on what is not on this machine."""
    notes = []
    if files and recipe.data.source == "files":
        if recipe.data.files.root.exists():
            from coldstart.data.readers import check_files

            check_files(recipe.data.files)
        else:
            notes.append(f"data.files.root {recipe.data.files.root} is not on this machine; its files were not checked")
    if Path(recipe.encoder.mllm).exists():
        from coldstart.encoders.check import check_mllm

        check_mllm(recipe.encoder)
    elif recipe.encoder.mllm != "tiny":
        notes.append(
            f"encoder.mllm {recipe.encoder.mllm} is not a local directory; it is loaded from the hub at run time"
        )
    return notes


@app.command(epilog="Example: coldstart recipes")
def recipes(as_json: AsJson = False) -> None:
    """List the shipped recipes, each with the command that runs it."""
    from coldstart.config.shipped_recipes import RECIPES

    rows = {}
    for path in sorted(RECIPES.glob("*.yaml")):
        head = [line.removeprefix("#").strip() for line in path.read_text().splitlines()[:2]]
        rows[path.stem] = {"description": head[0], "command": head[1]}
    if as_json:
        print(json.dumps(rows))
        return
    table = Table("recipe", "description", "command", box=None, padding=(0, 2, 0, 0))
    for name, row in rows.items():
        table.add_row(name, row["description"], row["command"])
    OUT.print(table)


@app.command(epilog="Example: coldstart schema > recipe.schema.json")
def schema() -> None:
    """Print the JSON Schema of a recipe, for editors."""
    print(json.dumps(Recipe.model_json_schema(), indent=2))


@app.command(epilog="Example: coldstart show demo --set seed=3")
def show(recipe: RecipeArgument, overrides: Overrides = None) -> None:
    """Print a recipe with all its defaults."""
    print(dump_recipe(load(recipe, overrides)), end="")
