"""A run directory with all artifacts of tiny random models, written in a second."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from coldstart.config import Recipe, read_artifact, write_artifact
from coldstart.config.recipe import Encoder as EncoderSettings
from coldstart.config.recipe import Paths, Serving
from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.data.content import Content
from coldstart.data.item_table import ColumnSpec, ItemTable, Rows, write_item_table
from coldstart.encoders import Encoder, create_tiny_mllm
from coldstart.methods.available import METHODS
from coldstart.methods.base import ITEM_TABLE, SCORER
from coldstart.methods.baselines.similarity_scorer import (
    CONTENT,
    CenteredStates,
    SimilarityScorer,
    save_similarity,
)
from coldstart.methods.idproxy.adaptor import Adaptor, save_adaptor
from coldstart.methods.idproxy.item_vectors import ProxyVectors
from coldstart.methods.idproxy.joint_ranker import JointRanker, save_joint
from coldstart.methods.idproxy.warmup_blend import save_id_weight
from coldstart.rankers import DinDcn, InteractionRanker, load_ranker, save_ranker
from coldstart.rankers.scorer import IdScorer
from coldstart.registry import Registry, Release
from coldstart.serving.core.scorer_info import ScorerInfo
from coldstart.serving.store.item_store import ItemStore
from coldstart.serving.store.row_layout import pack_rows
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


def write_run(
    recipe: Recipe,
    *,
    mode: Literal["frozen", "joint"] = "frozen",
    spoil: Callable[[DinDcn], None] = lambda ranker: None,
) -> None:
    """Writes ranker, encoder, item table and scorer artifacts of one lineage into the run directory.

    Args:
        recipe: Of the run.
        mode: Of the scorer.
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
    with seal(ITEM_TABLE, {"items": ITEMS, "width": width, "groups": 2, "hidden": encoder.hidden}) as draft:
        write_item_table(draft, {"coarse": _with_unknown(coarse), "states": _with_unknown(states)})
        pq.write_table(pa.table({"digest": [content.digest for content in contents]}), draft / "digests.parquet")
    lineage[ITEM_TABLE] = read_artifact(run_dir / ITEM_TABLE, ITEM_TABLE).fingerprint

    write_scorer(run_dir, mode)


def write_scorer(
    run_dir: Path, mode: Literal["frozen", "joint"], name: str = SCORER, *, similarity: bool = False
) -> None:
    """Writes a random scorer for the other artifacts of a run, into a directory `name`."""
    kinds = ("ranker", "encoder", ITEM_TABLE)
    used = {kind: read_artifact(run_dir / kind, kind) for kind in kinds}
    lineage = used[ITEM_TABLE].lineage | {ITEM_TABLE: used[ITEM_TABLE].fingerprint}
    sizes = [used[ITEM_TABLE].metadata[name] for name in ("width", "groups", "hidden")]
    adaptor = Adaptor(*sizes, mlp_units=16, dropout=0.0)
    _add_noise(adaptor, 0.05)
    ranker = load_ranker(used["ranker"].path)
    metadata = {"method": "idproxy", "mode": mode, **adaptor.config}
    with write_artifact(run_dir / name, SCORER, lineage, metadata) as draft:
        if similarity:
            content = CenteredStates.of(ItemTable.open(used[ITEM_TABLE].path))
            weighed = SimilarityScorer(IdScorer(ranker), {CONTENT: content.mean.numel()})
            weighed.weights.add_(torch.randn(weighed.weights.shape))
            save_similarity(weighed, content, draft)
        if mode == "joint":
            assert isinstance(ranker, InteractionRanker)
            joint = JointRanker(ranker, ProxyVectors(adaptor), 10.0 * ranker.trained, structure_reuse=True)
            _add_noise(joint, 0.1)
            save_joint(joint, draft, IDS)
            return
        save_adaptor(adaptor, draft)
        shares = ranker.trained.float()
        shares[WARMING] = SHARE
        save_id_weight(shares, draft)


def read_run(recipe: Recipe, version: int = 1) -> Release:
    """The release of a run, as the registry would return it."""
    parts = {kind.name: read_artifact(recipe.run_dir / kind.name, kind.name) for kind in METHODS["idproxy"].kinds}
    items = read_artifact(recipe.run_dir / ITEM_TABLE, ITEM_TABLE)
    versions = {SCORER: version, "ranker": 1, "encoder": 1}
    return Release(recipe.project, None, "idproxy", versions, items.lineage["dataset"], parts, items)


PROXY_COLUMNS = {"proxy": ColumnSpec("float32", (8,))}
"""Columns of the store in frozen mode."""


def proxy_rows(vectors: np.ndarray) -> Rows:
    """Rows `[n]` of proxies `[n, 8]`."""
    return pack_rows({"proxy": vectors}, PROXY_COLUMNS)


def fill_store(root: Path, space: str, vectors: np.ndarray, *, item_ids: list[str] = IDS) -> None:
    """Fills the store of a release in frozen mode whose items have these proxies [V, 8], without an encoder."""
    store = ItemStore(root, space, PROXY_COLUMNS)
    store.write_catalog(item_ids, [proxy_rows(vectors)])
    store.close()
    trained = np.zeros(len(item_ids) + 1, np.float32)
    trained[1 : TRAINED + 1] = 1
    ScorerInfo(PROXY_COLUMNS, False, trained).write(store.directory)


def _with_unknown(values: torch.Tensor) -> np.ndarray:
    """The values of all items after a row of zeros, the unknown item."""
    return np.concatenate([np.zeros((1, *values.shape[1:]), np.float32), values.float().numpy()])


def register_run(recipe: Recipe, registry: Registry) -> None:
    """Registers the run's models as the next versions, with figures that pass the gates."""
    figures = {"cold_gauc": 0.6, "cold_gauc_item": 0.6, "warm_gauc_item": 0.7, "all_logloss": 0.6}
    register_release(recipe, registry, figures | dict.fromkeys(("cold_rows", "warm_rows", "all_rows"), 500))


def _add_noise(model: torch.nn.Module, by: float = 0.3) -> None:
    """Randomizes all weights: a freshly initialized model gives equal answers to all requests."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(by * torch.randn_like(weight))
