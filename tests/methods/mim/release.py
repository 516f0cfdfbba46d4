"""A release of MIM with tiny random models, written in a second; its catalog is that of `tests.serving.tiny`."""

from pathlib import Path

import numpy as np
import torch

from coldstart.config import read_artifact, write_artifact
from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.data.content import Content
from coldstart.data.item_table import write_item_table
from coldstart.encoders.dual_encoder import DualEncoder
from coldstart.encoders.tiny_dual_encoder import create_tiny_dual_encoder
from coldstart.methods.base import ITEM_TABLE, SCORER
from coldstart.methods.mim.config import Interest
from coldstart.methods.mim.content_encoder import ContentEncoder, FusedContent
from coldstart.methods.mim.scorer import ContentInterestScorer, save_scorer
from coldstart.rankers import DinDcn
from coldstart.registry import Release
from tests.serving.tiny import HISTORY, IDS, ITEMS, TRAINED, content

WIDTH = 12


def write_release(root: Path, **switches: object) -> Release:
    """Writes encoder, item table and scorer, and returns them as the registry would."""
    torch.manual_seed(0)
    lineage = {"dataset": "d" * 64}
    contents = [content(index) for index in range(1, ITEMS + 1)]
    create_tiny_dual_encoder(
        root / "towers", [one.title or "" for one in contents], width=WIDTH, image_size=16, max_text_tokens=8, seed=1
    )
    encoder = ContentEncoder(DualEncoder.load(root / "towers")).eval()
    with write_artifact(root / "encoder", "encoder", lineage, {"width": WIDTH}) as draft:
        encoder.save(draft)
    lineage["encoder"] = read_artifact(root / "encoder", "encoder").fingerprint
    columns = FusedContent(encoder, "cpu").encode([Content(), *contents])
    with write_artifact(root / ITEM_TABLE, ITEM_TABLE, lineage, {"width": WIDTH, "items": ITEMS}) as draft:
        write_item_table(draft, {name: np.ascontiguousarray(values) for name, values in columns.items()})
    lineage[ITEM_TABLE] = read_artifact(root / ITEM_TABLE, ITEM_TABLE).fingerprint
    settings = RankerSettings(embedding_dim=8, num_heads=2, mlp_units=(16,), max_history=HISTORY, cross_layers=1)
    scorer = ContentInterestScorer(DinDcn(ITEMS + 1, settings), WIDTH, Interest.model_validate(switches))
    with torch.no_grad():
        for weight in scorer.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    scorer.ranker.trained[1 : TRAINED + 1] = True
    with write_artifact(root / SCORER, SCORER, lineage, {"method": "mim", "width": WIDTH}) as draft:
        save_scorer(scorer, draft, IDS)
    parts = {kind: read_artifact(root / kind, kind) for kind in ("encoder", SCORER)}
    items = read_artifact(root / ITEM_TABLE, ITEM_TABLE)
    return Release("mim", None, "mim", {SCORER: 1, "encoder": 1}, lineage["dataset"], parts, items)
