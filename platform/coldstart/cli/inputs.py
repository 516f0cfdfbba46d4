"""Verbs that create inputs: a synthetic catalog, a tiny MLLM, a dual encoder."""

from pathlib import Path
from typing import Annotated

import typer

from coldstart.cli.app import OUT, app
from coldstart.config import UserError, check_writable
from coldstart.config.loading import resolve_recipe

_GENERATED = "data.generated"
PRETRAINED_PIXELS = 128
"""Pixels per side for the pre-trained image tower: a third of the time of its own 224."""


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


@app.command(
    "create-dual-encoder",
    epilog="Example: coldstart create-dual-encoder runs/towers --image pretrained",
)
def create_dual_encoder(
    out: Annotated[Path, typer.Argument(help="Output directory; a recipe names it as method.towers.path.")],
    image: Annotated[
        Path | None,
        typer.Option(
            help="Checkpoint directory of the image tower, which may be a CLIP model; or `pretrained`: MiniLM and "
            "EfficientNet-Lite0 of the extra of that name."
        ),
    ] = None,
    text: Annotated[Path | None, typer.Option(help="Checkpoint directory of the text tower; default: --image.")] = None,
    dataset: Annotated[
        Path | None, typer.Option(help="Instead of --image: prepared dataset, for tiny random towers and a tokenizer.")
    ] = None,
    width: Annotated[int, typer.Option(min=1, help="Width of the common space.")] = 128,
    max_text_tokens: Annotated[int, typer.Option(min=1)] = 48,
    seed: Annotated[int, typer.Option(min=0, help="For new weights.")] = 17,
) -> None:
    """Create a dual encoder of local image and text towers, of pre-trained ones, or a tiny random one."""
    if (image is None) == (dataset is None):
        raise UserError(
            "pass --image (and --text) to compose local checkpoints, --image pretrained for those of the extra, or "
            "--dataset for tiny random towers"
        )
    check_writable(out, "choose another directory")
    from coldstart.encoders.dual_encoder import DualEncoder
    from coldstart.encoders.pretrained_towers import create_pretrained_dual_encoder
    from coldstart.encoders.tiny_dual_encoder import create_tiny_dual_encoder

    if image == Path("pretrained"):
        create_pretrained_dual_encoder(
            out, width=width, image_size=PRETRAINED_PIXELS, max_text_tokens=max_text_tokens, seed=seed
        )
    elif dataset is not None:
        from coldstart.data.dataset import Dataset

        texts = Dataset.open(dataset).texts()
        out.mkdir(parents=True, exist_ok=True)
        create_tiny_dual_encoder(out, texts, width=width, image_size=64, max_text_tokens=max_text_tokens, seed=seed)
    elif image is not None:
        import torch

        torch.manual_seed(seed)
        encoder = DualEncoder.compose(image, text or image, width=width, max_text_tokens=max_text_tokens)
        out.mkdir(parents=True, exist_ok=True)
        encoder.save(out)
    OUT.print(f"dual encoder at {out}")
