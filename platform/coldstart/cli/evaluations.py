"""Verbs about evaluated runs."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from coldstart.cli.app import OUT, AsJson, Overrides, RecipeName, app, load
from coldstart.config import UserError

RunDirectory = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, e.g. runs/demo.")]


@app.command(epilog="Example: coldstart compare runs/demo runs/demo-text-only")
def compare(
    left: RunDirectory,
    right: RunDirectory,
    html: Annotated[Path | None, typer.Option(help="Also write a page.")] = None,
    as_json: AsJson = False,
) -> None:
    """Put two evaluated runs side by side, with paired differences where both evaluated the very same rows."""
    from coldstart.evaluation.report import render_side_by_side, side_by_side_table
    from coldstart.evaluation.runs import EvaluatedRun
    from coldstart.evaluation.side_by_side import compare as put_side_by_side

    found = put_side_by_side(EvaluatedRun.open(left), EvaluatedRun.open(right))
    if html is not None:
        html.write_text(render_side_by_side(found))
    if as_json:
        print(json.dumps(found))
        return
    OUT.print(side_by_side_table(found))
    if found["reason"]:
        OUT.print(f"[yellow]not paired[/]: {found['reason']}, so no difference is given", soft_wrap=True)
    changed = Table("made with", "first", "second", box=None, padding=(0, 2, 0, 0))
    for entry in found["settings"]:
        changed.add_row(entry["setting"], *map(str, entry["values"]))
    for entry in found["lineage"]:
        if not entry["same"]:
            changed.add_row(entry["kind"], *(str(value)[:12] for value in entry["values"]))
    OUT.print(changed)


@app.command(epilog="Example: coldstart evaluate --challenger --recipe demo --set data.files.events=fresh.parquet")
def evaluate(
    challenger: Annotated[
        bool, typer.Option("--challenger", help="Replay champion and challenger on the same fresh events.")
    ] = False,
    recipe: RecipeName = "demo",
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Say whether the challenger beats the champion, on events that neither was made from."""
    from workloads.challenge import run, show

    if not challenger:
        raise UserError("what is evaluated? --challenger, a release; a whole run: `coldstart run evaluate`")
    artifact = run(load(recipe, overrides))
    if as_json:
        print(json.dumps(artifact.about))
    else:
        show(artifact.about)
