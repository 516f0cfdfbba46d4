"""Verbs that evaluate a run, and compare evaluated runs or registered releases."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from coldstart.cli.app import OUT, AsJson, Overrides, RecipeName, app, load
from coldstart.cli.programs import run_workload

RunDirectory = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, e.g. runs/demo.")]


@app.command(epilog="Example: coldstart evaluate --recipe demo --seeds 3")
def evaluate(
    recipe: RecipeName = "demo",
    overrides: Overrides = None,
    seeds: Annotated[
        int | None, typer.Option(metavar="N", help="Train and evaluate N seeds, and aggregate their metrics.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="host:port of a running Ray cluster; default: RAY_ADDRESS, else a local Ray.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate the trained models of a run on its test rows (same as `coldstart run evaluate`)."""
    arguments = ["--recipe", recipe]
    for override in overrides or ():
        arguments += ["--set", override]
    if seeds is not None:
        arguments += ["--seeds", str(seeds)]
    if address is not None:
        arguments += ["--address", address]
    if as_json:
        arguments.append("--json")
    run_workload("evaluate", arguments)


@app.command(epilog="Example: coldstart compare-runs runs/demo runs/demo-text-only")
def compare_runs(
    left: RunDirectory,
    right: RunDirectory,
    html: Annotated[Path | None, typer.Option(help="Also write an HTML page to this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare two evaluated runs, with paired differences if both evaluated exactly the same rows."""
    from coldstart.evaluation.compare.compare_runs import compare_runs as compare
    from coldstart.evaluation.compare.evaluated_runs import EvaluatedRun
    from coldstart.evaluation.report.run_report import render_run_comparison, run_comparison_table

    comparison = compare(EvaluatedRun.open(left), EvaluatedRun.open(right))
    if html is not None:
        html.write_text(render_run_comparison(comparison))
    if as_json:
        print(json.dumps(comparison))
        return
    OUT.print(run_comparison_table(comparison))
    if comparison["reason"]:
        OUT.print(f"[yellow]not paired[/]: {comparison['reason']}, so no difference is given", soft_wrap=True)
    changed = Table("made with", "first", "second", box=None, padding=(0, 2, 0, 0))
    for entry in comparison["settings"]:
        changed.add_row(entry["setting"], *map(str, entry["values"]))
    for entry in comparison["lineage"]:
        if not entry["same"]:
            changed.add_row(entry["kind"], *(str(value)[:12] for value in entry["values"]))
    OUT.print(changed)


@app.command(epilog="Example: coldstart compare-releases --recipe demo --set data.files.events=fresh.parquet")
def compare_releases(recipe: RecipeName = "demo", overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Compare the champion and challenger releases on events that neither was trained on."""
    loaded = load(recipe, overrides, writes=True)
    from coldstart.jobs.analysis.compare_releases import run, show

    artifact = run(loaded)
    if as_json:
        print(json.dumps(artifact.metadata))
    else:
        show(artifact.metadata)
