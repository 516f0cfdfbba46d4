"""Verbs about registered models."""

import json
from typing import Annotated, Any

import typer
from rich.table import Table

from coldstart.cli.app import OUT, AsJson, Overrides, RecipeName, app, load


@app.command(epilog="Example: coldstart models --recipe demo")
def models(recipe: RecipeName = "demo", overrides: Overrides = None, as_json: AsJson = False) -> None:
    """List the registered model versions of a project with aliases, lineage and cold GAUC."""
    from coldstart.registry import Registry

    loaded = load(recipe, overrides)
    rows: list[dict[str, Any]] = Registry(loaded.tracking_uri, loaded.project).versions()
    if as_json:
        print(json.dumps(rows))
        return
    table = Table("model", "version", "alias", "cold GAUC", "made from", box=None, padding=(0, 2, 0, 0))
    for row in rows:
        gauc = "" if row["cold_gauc"] is None else f"{row['cold_gauc']:.4f}"
        made_from = "  ".join(f"{kind} v{version}" for kind, version in row["upstream"].items())
        table.add_row(row["name"], str(row["version"]), ", ".join(row["aliases"]), gauc, made_from)
    OUT.print(table)


@app.command(epilog="Example: coldstart promote adaptor 1 --to champion")
def promote(
    kind: Annotated[str, typer.Argument(help="Model to move: adaptor (its release moves with it).")],
    version: Annotated[int, typer.Argument(min=1)],
    to: Annotated[str, typer.Option(help="Alias: champion or challenger.")] = "champion",
    recipe: RecipeName = "demo",
    overrides: Overrides = None,
    why: Annotated[str, typer.Option(help="Reason, kept in the record.")] = "",
    as_json: AsJson = False,
) -> None:
    """Promote a version if it passes the gate; exit code 1 when the gate refuses."""
    from coldstart.registry import Registry
    from coldstart.registry import promote as move

    loaded = load(recipe, overrides)
    registry = Registry(loaded.tracking_uri, loaded.project)
    verdict = move(registry, kind, version, alias=to, tolerance=loaded.registry.gate_tolerance, why=why)
    if as_json:
        print(json.dumps(verdict.as_dict()))
    else:
        OUT.print(verdict.sentence(), soft_wrap=True)
    if not verdict.passed:
        raise SystemExit(1)
