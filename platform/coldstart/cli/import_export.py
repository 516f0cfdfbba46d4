"""Verbs for a ranker that was trained elsewhere: import the ranker, export its proxies."""

import json
from pathlib import Path
from typing import Annotated

import typer

from coldstart.cli.app import OUT, AsJson, Overrides, RecipeName, app, load
from coldstart.config import MetricsLog, check_writable, store_recipe


@app.command(
    "import-ranker",
    epilog="Example: coldstart import-ranker my_ranker:MyRanker --weights my.safetensors --recipe mine.yaml",
)
def import_ranker(
    kind: Annotated[
        str, typer.Argument(metavar="MODULE:CLASS", help="Class of the ranker; naming it here allows its import.")
    ],
    weights: Annotated[Path, typer.Option(help="safetensors file with its state_dict.")],
    item_ids: Annotated[
        Path | None,
        typer.Option(help="Parquet file with item_id in the order of the table's rows; default: dataset order."),
    ] = None,
    recipe: RecipeName = "demo",
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Check a custom trained ranker with the run's dataset, use it as the run's ranker, and register it."""
    settings = [f"ranker.kind={kind}", f"ranker.pretrained.weights={weights}"]
    settings += [] if item_ids is None else [f"ranker.pretrained.item_ids={item_ids}"]
    loaded = load(recipe, [*(overrides or []), *settings], writes=True)
    # These imports take seconds.
    from coldstart.jobs.stages import import_ranker as workload
    from coldstart.methods.kinds import first_method_with
    from coldstart.registry import Registry, register_model

    artifact = workload.run(loaded)
    model = register_model(
        Registry(loaded.tracking_uri, loaded.project),
        artifact,
        method=first_method_with(artifact.kind).name,
        recipe=loaded,
        upstream={},
        metrics_log=MetricsLog(loaded.run_dir / "metrics" / f"{workload.STAGE}.jsonl"),
    )
    store_recipe(loaded)
    if as_json:
        print(json.dumps({"name": model.name, "version": model.version, "path": str(artifact.path)}))
    else:
        OUT.print(f"{kind} meets the interface: {model.name} v{model.version}, ranker of {loaded.run_dir}")


@app.command(epilog="Example: coldstart export proxies.parquet --recipe mine.yaml")
def export(
    out: Annotated[Path, typer.Argument(help="Parquet file to write: item_id, has_row, proxy (list of floats).")],
    recipe: RecipeName = "demo",
    overrides: Overrides = None,
) -> None:
    """Write the coarse proxy of every item, scaled to the length of mature ID rows, for an external ranker."""
    loaded = load(recipe, overrides)
    check_writable(out.parent, "choose another file")
    from coldstart.jobs.serving.export_proxies import export_proxies

    OUT.print(f"{export_proxies(loaded, out)} proxies in {out}")
