"""Verbs about prepared datasets: inspect one before training."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from coldstart.cli.app import OUT, AsJson, app
from coldstart.config import check_writable

if TYPE_CHECKING:
    from coldstart.evaluation.inspection.dataset_warnings import DatasetWarning
    from coldstart.evaluation.inspection.inspection import Inspection


@app.command(epilog="Example: coldstart inspect runs/demo")
def inspect(
    run: Annotated[Path, typer.Argument(metavar="RUN_OR_DATASET", help="Run directory, or the dataset in it.")],
    html: Annotated[
        Path | None, typer.Option(help="File of the page; default: inspect.html in the run directory.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a prepared dataset is like, and warn of what will hurt: a poor ID space, few cold rows, drift, ...

    Also writes a page with charts. Warnings do not change the exit code.
    """
    from coldstart.evaluation.inspection.dataset_warnings import find_warnings
    from coldstart.evaluation.inspection.inspection import as_json as numbers
    from coldstart.evaluation.inspection.inspection import inspect_dataset, open_dataset

    dataset = open_dataset(run)
    target = html or dataset.artifact.path.absolute().parent / "inspect.html"
    check_writable(target.parent, "name another file with --html")
    inspection = inspect_dataset(dataset)
    warnings = find_warnings(inspection)
    from coldstart.evaluation.inspection.inspection_page import render_inspection

    written_at = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    target.write_text(render_inspection(inspection, warnings, written_at=written_at))
    if as_json:
        print(json.dumps(numbers(inspection) | {"warnings": [asdict(one) for one in warnings], "page": str(target)}))
        return
    _show(inspection, warnings)
    OUT.print(f"\npage   {target}", soft_wrap=True, markup=False)


def _show(inspection: "Inspection", warnings: "list[DatasetWarning]") -> None:
    from coldstart.evaluation.inspection.inspection_page import headline, terminal_tables

    OUT.print(f"[bold]{escape(inspection.name)}[/]  {headline(inspection, warnings)}", soft_wrap=True)
    for table in terminal_tables(inspection):
        OUT.print()
        OUT.print(table)
    for one in warnings:
        OUT.print(f"\n[yellow]warning[/]  {escape(one.what)}", soft_wrap=True)
        OUT.print(f"   why   {one.why}\n   fix   {one.fix}", soft_wrap=True, markup=False)
