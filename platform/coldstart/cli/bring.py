"""Verbs for a ranker of your own: bring it in, take the proxies out."""

import json
from pathlib import Path
from typing import Annotated

import typer

from coldstart.cli.app import OUT, AsJson, Overrides, RecipeName, app, load
from coldstart.config import Journal, UserError, dump_recipe


@app.command(
    epilog="Example: coldstart register ranker --from my_ranker:MyRanker --weights my.safetensors --recipe mine.yaml"
)
def register(
    kind: Annotated[str, typer.Argument(help="ranker: encoders and adaptors are registered by the pipeline.")],
    source: Annotated[str, typer.Option("--from", help="module:Class; naming it here permits its import.")],
    weights: Annotated[Path, typer.Option(help="safetensors with its state_dict.")],
    ids: Annotated[
        Path | None, typer.Option(help="Parquet with item_id in the order of the table's rows; default the dataset's.")
    ] = None,
    recipe: RecipeName = "demo",
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Check a trained ranker of your own against the run's dataset, make it the run's ranker, and register it."""
    from workloads import import_ranker

    if kind != "ranker":
        raise UserError(f"only a ranker can be brought, not a '{kind}'; `coldstart run register` registers a run's own")
    given = [f"ranker.kind={source}", f"bring.weights={weights}"]
    given += [] if ids is None else [f"bring.ids={ids}"]
    loaded = load(recipe, [*(overrides or []), *given])
    artifact = import_ranker.run(loaded)
    # Loaded only now, for it takes seconds.
    from coldstart.registry import Registry

    model = Registry(loaded.tracking_uri, loaded.project).register(
        kind,
        artifact.path,
        recipe=loaded,
        upstream={},
        metrics={},
        journal=Journal(loaded.run_dir / "journals" / f"{import_ranker.STAGE}.jsonl"),
    )
    (loaded.run_dir / "recipe.yaml").write_text(dump_recipe(loaded))
    if as_json:
        print(json.dumps({"name": model.name, "version": model.version, "path": str(artifact.path)}))
    else:
        OUT.print(f"{source} meets the interface: {model.name} v{model.version}, ranker of {loaded.run_dir}")


@app.command(epilog="Example: coldstart export proxies.parquet --recipe mine.yaml")
def export(
    out: Annotated[Path, typer.Argument(help="Parquet file to write: item_id, has_row, proxy (list of floats).")],
    recipe: RecipeName = "demo",
    overrides: Overrides = None,
) -> None:
    """Write every item's coarse proxy, as long as a mature ID row, for the table of a ranker that lives elsewhere."""
    from workloads.export_proxies import export_proxies

    OUT.print(f"{export_proxies(load(recipe, overrides), out)} proxies in {out}")
