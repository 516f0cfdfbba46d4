"""Verbs that make something to start from: a catalogue, an MLLM."""

from pathlib import Path
from typing import Annotated

import typer

from coldstart.cli.app import OUT, app


@app.command(epilog="Example: coldstart generate catalogue --items 2000 --users 1000 --events 100000")
def generate(
    out: Annotated[Path, typer.Argument(help="Directory to write items.parquet, events.parquet and truth.json into.")],
    items: Annotated[int, typer.Option(min=1)] = 4000,
    users: Annotated[int, typer.Option(min=1)] = 2000,
    events: Annotated[int, typer.Option(min=1)] = 400_000,
    seed: Annotated[int, typer.Option(min=0)] = 17,
) -> None:
    """Draw the embedded default catalogue: a simulated content platform whose click probabilities are known."""
    from coldstart.config.recipe import Generated
    from coldstart.data.generator import generate as draw

    draw(Generated(items=items, users=users, events=events), seed, out)
    OUT.print(f"{items} items and {events} events in {out}")


@app.command("make-mllm", epilog="Example: coldstart make-mllm runs/tiny --dataset runs/demo/dataset")
def make_mllm(
    out: Annotated[Path, typer.Argument(help="Checkpoint directory to write.")],
    dataset: Annotated[Path, typer.Option(help="Prepared dataset whose words the tokenizer learns.")],
    picture_size: Annotated[int, typer.Option(min=16)] = 64,
    seed: Annotated[int, typer.Option(min=0)] = 17,
) -> None:
    """Make the tiny offline MLLM: an ordinary checkpoint of about a million random parameters."""
    from coldstart.data.dataset import Dataset
    from coldstart.encoders.tiny import make_mllm as make

    make(out, Dataset.open(dataset).texts(), picture_size=picture_size, seed=seed)
    OUT.print(f"checkpoint at {out}")
