"""Verbs that create inputs: a synthetic catalog, a tiny MLLM."""

from pathlib import Path
from typing import Annotated

import typer

from coldstart.cli.app import OUT, app
from coldstart.config import check_writable
from coldstart.config.loading import resolve_recipe

_GENERATED = "data.generated"


@app.command(epilog="Example: coldstart generate catalog --items 2000 --users 1000 --events 100000")
def generate(
    out: Annotated[Path, typer.Argument(help="Output directory for items.parquet, events.parquet and truth.json.")],
    regime: Annotated[str, typer.Option(help="dense, sparse, visual or drift: what clicks depend on.")] = "dense",
    items: Annotated[int | None, typer.Option(min=1, help="Default: that of the regime.")] = None,
    users: Annotated[int | None, typer.Option(min=1, help="Default: that of the regime.")] = None,
    events: Annotated[int | None, typer.Option(min=1, help="Default: that of the regime.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 17,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="FIELD=VALUE", help="Override a field of data.generated; repeatable."),
    ] = None,
) -> None:
    """Generate a synthetic catalog with users and events, whose true click probabilities are known."""
    check_writable(out, "choose another directory")
    from coldstart.data.synthetic import generate as write_catalog

    sizes = {"regime": regime, "items": items, "users": users, "events": events}
    given = [f"{_GENERATED}.{field}={value}" for field, value in sizes.items() if value is not None]
    given += [f"{_GENERATED}.{override}" for override in overrides or ()]
    settings = resolve_recipe({"name": "generated"}, given, "coldstart generate").data.generated
    written = write_catalog(settings, seed, out)
    OUT.print(f"{settings.items} items and {written} events in {out}")


@app.command("create-tiny-mllm", epilog="Example: coldstart create-tiny-mllm runs/tiny --dataset runs/demo/dataset")
def create_tiny_mllm(
    out: Annotated[Path, typer.Argument(help="Output directory of the checkpoint.")],
    dataset: Annotated[Path, typer.Option(help="Prepared dataset; the tokenizer is trained on its titles and texts.")],
    image_size: Annotated[int, typer.Option(min=16, help="Pixels per side.")] = 64,
    seed: Annotated[int, typer.Option(min=0)] = 17,
) -> None:
    """Create the tiny offline MLLM: an ordinary checkpoint with about a million random parameters."""
    check_writable(out, "choose another directory")
    from coldstart.data.dataset import Dataset
    from coldstart.encoders.tiny import create_tiny_mllm as write_checkpoint

    write_checkpoint(out, Dataset.open(dataset).texts(), image_size=image_size, seed=seed)
    OUT.print(f"checkpoint at {out}")
