"""Verbs that create inputs: a synthetic catalog, a tiny MLLM."""

from pathlib import Path
from typing import Annotated

import typer

from coldstart.cli.app import OUT, app
from coldstart.config import check_writable


@app.command(epilog="Example: coldstart generate catalog --items 2000 --users 1000 --events 100000")
def generate(
    out: Annotated[Path, typer.Argument(help="Output directory for items.parquet, events.parquet and truth.json.")],
    items: Annotated[int, typer.Option(min=1)] = 4000,
    users: Annotated[int, typer.Option(min=1)] = 2000,
    events: Annotated[int, typer.Option(min=1)] = 400_000,
    seed: Annotated[int, typer.Option(min=0)] = 17,
) -> None:
    """Generate a synthetic catalog with users and events, whose true click probabilities are known."""
    check_writable(out, "choose another directory")
    from coldstart.config.recipe import Generated
    from coldstart.data.synthetic import generate as write_catalog

    write_catalog(Generated(items=items, users=users, events=events), seed, out)
    OUT.print(f"{items} items and {events} events in {out}")


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
