"""A release of the default recipe's sizes with random weights, since speed does not depend on them."""

from pathlib import Path

import numpy as np
import torch

from coldstart.config import Recipe, read_artifact, write_artifact
from coldstart.config.recipe import Paths
from coldstart.data.item_table import write_item_table
from coldstart.encoders import Encoder, create_tiny_mllm
from coldstart.methods.base import ITEM_TABLE, SCORER
from coldstart.methods.idproxy.adaptor import Adaptor, load_adaptor, save_adaptor
from coldstart.rankers import DinDcn, save_ranker
from coldstart.registry import Release

ITEMS, TRAINED = 4_000, 3_600
IDS = [f"item-{index:05d}" for index in range(1, ITEMS + 1)]
"""Those from `TRAINED` on are cold: in the catalog, but without an ID row in the ranker."""
GROUPS = (2, 5)
_DATASET = "d" * 64


def write_run(runs: Path) -> Recipe:
    """Writes the artifacts of a run and returns its recipe."""
    recipe = Recipe(name="bench-serve", paths=Paths(runs=runs))
    torch.manual_seed(recipe.seed)
    width, run = recipe.ranker.embedding_dim, recipe.run_dir
    lineage = {"dataset": _DATASET}
    ranker = DinDcn(ITEMS + 1, recipe.ranker)
    _add_noise(ranker)
    ranker.trained[1 : TRAINED + 1] = True
    with write_artifact(run / "ranker", "ranker", dict(lineage), {"width": width}) as draft:
        save_ranker(ranker, draft, IDS)
    lineage["ranker"] = read_artifact(run / "ranker", "ranker").fingerprint
    create_tiny_mllm(
        run / "mllm", [f"a title of {name}" for name in IDS[:200]], image_size=recipe.encoder.image_size, seed=1
    )
    encoder = Encoder.create(str(run / "mllm"), recipe.encoder, width=width, content=recipe.content, seed=1).eval()
    encoder.layers = tuple((layer,) for layer in GROUPS)
    with write_artifact(run / "encoder", "encoder", dict(lineage), {"width": width}) as draft:
        encoder.save(draft)
    lineage["encoder"] = read_artifact(run / "encoder", "encoder").fingerprint
    rng = np.random.default_rng(recipe.seed)
    coarse = rng.normal(size=(ITEMS + 1, width)).astype(np.float32)
    states = rng.normal(size=(ITEMS + 1, len(GROUPS), encoder.hidden)).astype(np.float32)
    coarse[0], states[0] = 0, 0
    metadata = {"items": ITEMS, "width": width, "groups": len(GROUPS), "hidden": encoder.hidden}
    with write_artifact(run / ITEM_TABLE, ITEM_TABLE, dict(lineage), metadata) as draft:
        write_item_table(draft, {"coarse": coarse, "states": states})
    lineage[ITEM_TABLE] = read_artifact(run / ITEM_TABLE, ITEM_TABLE).fingerprint
    adaptor = Adaptor(width, len(GROUPS), encoder.hidden, mlp_units=64, dropout=0.0)
    _add_noise(adaptor)
    metadata = {"method": "idproxy", "mode": "frozen", **adaptor.config}
    with write_artifact(run / SCORER, SCORER, dict(lineage), metadata) as draft:
        save_adaptor(adaptor, draft)
    return recipe


def write_second_scorer(run: Path) -> None:
    """Writes another scorer for the same ranker, for a second release."""
    first = read_artifact(run / SCORER, SCORER)
    adaptor = load_adaptor(first.path)
    _add_noise(adaptor)
    with write_artifact(run / f"{SCORER}-2", SCORER, first.lineage, first.metadata) as draft:
        save_adaptor(adaptor, draft)


def release(run: Path, version: int = 1) -> Release:
    """Returns the release as the registry would."""
    parts = {kind: read_artifact(run / kind, kind) for kind in ("ranker", "encoder")}
    parts[SCORER] = read_artifact(run / (SCORER if version == 1 else f"{SCORER}-{version}"), SCORER)
    versions = {SCORER: version, "ranker": 1, "encoder": 1}
    items = read_artifact(run / ITEM_TABLE, ITEM_TABLE)
    return Release("bench-serve", None, "idproxy", versions, _DATASET, parts, items)


def _add_noise(model: torch.nn.Module) -> None:
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
