"""Verbs about recipes: check, list, print."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from coldstart.cli.app import OUT, AsJson, Overrides, app, load
from coldstart.config import Recipe, digest, dump_recipe


@app.command(epilog="Example: coldstart validate movielens --set data.files.root=films")
def validate(recipe: Annotated[str, typer.Argument()], overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check a recipe and, where they are local, the files and the MLLM it names."""
    from coldstart.data.readers import check_files
    from coldstart.encoders.check import check_mllm

    loaded = load(recipe, overrides)
    notes = []
    if loaded.data.source == "files":
        if loaded.data.files.root.exists():
            check_files(loaded.data.files)
        else:
            notes.append(f"data.files.root {loaded.data.files.root} is not on this machine; its files were not checked")
    if Path(loaded.encoder.mllm).exists():
        check_mllm(loaded.encoder)
    elif loaded.encoder.mllm != "tiny":
        notes.append(
            f"encoder.mllm {loaded.encoder.mllm} is not a local directory; it is loaded from the hub at run time"
        )
    if as_json:
        print(json.dumps({"recipe": loaded.name, "hash": digest(loaded), "valid": True, "notes": notes}))
        return
    OUT.print(f"recipe '{loaded.name}' is valid  [dim]{digest(loaded)[:12]}[/]")
    for note in notes:
        OUT.print(f"note: {note}", soft_wrap=True)


@app.command(epilog="Example: coldstart recipes")
def recipes(as_json: AsJson = False) -> None:
    """List the shipped recipes, each with the command that runs it."""
    from workloads.job import RECIPES

    rows = {}
    for path in sorted(RECIPES.glob("*.yaml")):
        head = [line.removeprefix("#").strip() for line in path.read_text().splitlines()[:2]]
        rows[path.stem] = {"about": head[0], "command": head[1]}
    if as_json:
        print(json.dumps(rows))
        return
    table = Table("recipe", "what it is", "command", box=None, padding=(0, 2, 0, 0))
    for name, row in rows.items():
        table.add_row(name, row["about"], row["command"])
    OUT.print(table)


@app.command(epilog="Example: coldstart schema > recipe.schema.json")
def schema() -> None:
    """Print the JSON Schema of a recipe, for editors."""
    print(json.dumps(Recipe.model_json_schema(), indent=2))


@app.command(epilog="Example: coldstart show demo --set seed=3")
def show(recipe: Annotated[str, typer.Argument()], overrides: Overrides = None) -> None:
    """Print a recipe with every default filled in."""
    print(dump_recipe(load(recipe, overrides)), end="")
