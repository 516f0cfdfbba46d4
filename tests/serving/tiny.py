"""A run directory with all artifacts of tiny random models, written in a second."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from coldstart.alignment.adaptor import Adaptor, save_adaptor
from coldstart.alignment.warmup_blend import save_id_weight
from coldstart.config import Recipe, read_artifact, write_artifact
from coldstart.config.recipe import Encoder as EncoderSettings
from coldstart.config.recipe import Paths, Serving
from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.data.content import Content
from coldstart.encoders import Encoder, create_tiny_mllm
from coldstart.encoders.item_embeddings import proxy_table, write_proxies
from coldstart.rankers import DinDcn, save_ranker
from coldstart.registry import Registry
from workloads.benchmarks.soak.releases import register_release

ITEMS, TRAINED, HISTORY = 12, 8, 6
WARMING, SHARE = TRAINED, 0.25
"""An item that warms up, and the weight of its ID row."""
IDS = [f"film-{index}" for index in range(1, ITEMS + 1)]


def png_image(color: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), (color, 255 - color, 90)).save(file, "PNG")
    return file.getvalue()


def content(index: int) -> Content:
    return Content(f"film number {index}", "a quiet story" if index % 2 else None, png_image(20 * index))


def tiny_recipe(runs: Path, name: str, **serving: object) -> Recipe:
    return Recipe(
        name=name,
        paths=Paths(runs=runs),
        ranker=RankerSettings(embedding_dim=8, num_heads=2, mlp_units=(16,), max_history=HISTORY, cross_layers=1),
        encoder=EncoderSettings(image_size=32, max_text_tokens=12),
        serving=Serving.model_validate(
            {"max_replicas": 1, "max_candidates": 40, "max_request_bytes": 200_000, **serving}
        ),
    )


def write_run(recipe: Recipe, *, spoil: Callable[[DinDcn], None] = lambda ranker: None) -> None:
    """Writes ranker, encoder, proxies and adaptor artifacts of one lineage into the run directory.

    Args:
        recipe: Of the run.
        spoil: Done to the ranker before it is written.
    """
    torch.manual_seed(recipe.seed)
    lineage = {"dataset": "d" * 64}
    width, run_dir = recipe.ranker.embedding_dim, recipe.run_dir

    def seal(kind: str, metadata: dict[str, object]):
        return write_artifact(run_dir / kind, kind, dict(lineage), metadata)

    ranker = DinDcn(ITEMS + 1, recipe.ranker)
    _add_noise(ranker)
    ranker.trained[1 : TRAINED + 1] = True
    spoil(ranker)
    with seal("ranker", {"width": width}) as draft:
        save_ranker(ranker, draft, IDS)
    lineage["ranker"] = read_artifact(run_dir / "ranker", "ranker").fingerprint

    contents = [content(index) for index in range(1, ITEMS + 1)]
    create_tiny_mllm(run_dir / "mllm", [c.title or "" for c in contents], image_size=recipe.encoder.image_size, seed=1)
    encoder = Encoder.create(str(run_dir / "mllm"), recipe.encoder, width=width, content=recipe.content, seed=1).eval()
    encoder.layers = ((2,), (5,))
    with seal("encoder", {"width": width}) as draft:
        encoder.save(draft)
    lineage["encoder"] = read_artifact(run_dir / "encoder", "encoder").fingerprint

    with torch.inference_mode():
        coarse, states = encoder(encoder.inputs(encoder.prepare(contents), "cpu"))
    with seal("proxies", {"width": width, "groups": 2, "hidden": encoder.hidden}) as draft:
        digests = [content.digest for content in contents]
        write_proxies(draft, proxy_table(np.arange(1, ITEMS + 1), coarse.numpy(), states.numpy(), digests))
    lineage["proxies"] = read_artifact(run_dir / "proxies", "proxies").fingerprint

    adaptor = Adaptor(width, 2, encoder.hidden, mlp_units=16, dropout=0.0)
    _add_noise(adaptor, 0.05)
    with seal("adaptor", {"width": width}) as draft:
        save_adaptor(adaptor, draft)
        shares = ranker.trained.float()
        shares[WARMING] = SHARE
        save_id_weight(shares, draft)


def register_run(recipe: Recipe, registry: Registry) -> None:
    """Registers the run's models as the next versions, with figures that pass the gates."""
    figures = {"cold_gauc": 0.6, "cold_gauc_item": 0.6, "warm_gauc_item": 0.7, "all_logloss": 0.6}
    register_release(recipe, registry, figures | dict.fromkeys(("cold_rows", "warm_rows", "all_rows"), 500))


def _add_noise(model: torch.nn.Module, by: float = 0.3) -> None:
    """Randomizes all weights: a freshly initialized model gives equal answers to all requests."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(by * torch.randn_like(weight))
