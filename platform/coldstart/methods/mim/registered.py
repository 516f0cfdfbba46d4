"""What MIM registers: content encoder and scorer, each as a model that MLflow can load and call."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from torch import Tensor

from coldstart.config import Artifact, UserError
from coldstart.data.batches import rank_request
from coldstart.data.item_table import ColumnSpecs, ItemTable
from coldstart.methods.base import SCORER, ArtifactKind, FieldSpec
from coldstart.methods.mim.columns import CONTENT, content_column
from coldstart.methods.mim.scorer import RANKER, load_scorer
from coldstart.methods.registered_content import CONTENT_FIELDS, content_row, read_contents, unused_content
from coldstart.rankers import read_item_index


class ContentModel:
    """Rows of content -> fused vectors `[k]`."""

    def __init__(self, path: Path) -> None:
        # A scorer is loaded without the towers' libraries.
        from coldstart.methods.mim.content_encoder import ContentEncoder, FusedContent

        self.encoder = FusedContent(ContentEncoder.load(path), "cpu")

    def predict(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Columns title, text, image (encoded image bytes, or base64 of them); each may be missing or null."""
        return pd.DataFrame({CONTENT: self.encoder.encode(read_contents(rows))[CONTENT].tolist()})


class InterestModel:
    """Rows of one user's history and candidates, both with content vectors -> click probabilities of the candidates."""

    def __init__(self, path: Path) -> None:
        self.scorer = load_scorer(path)
        self.item_index = read_item_index(path / RANKER)

    def predict(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Columns history_item_ids, history_labels, history_times, history_content, and those of candidates -> scores.

        A content vector is that of the encoder, zeros for an item without content. Optional column: now.
        """
        return pd.DataFrame({"scores": [self._row(row) for row in rows.to_dict("records")]})

    def _row(self, row: dict[str, Any]) -> list[float]:
        now = row.get("now")
        history, candidates = (
            [self.item_index.get(item, 0) for item in row[f"{side}_item_ids"]] for side in ("history", "candidate")
        )
        times = np.asarray(list(row["history_times"]), np.int64)
        moment = int(time.time()) if now is None or pd.isna(now) else int(now)
        order = np.argsort(times, kind="stable")
        order = order[times[order] < moment][-self.scorer.max_history :]
        batch = rank_request(
            history, list(row["history_labels"]), times, candidates, moment, history=self.scorer.max_history
        )
        past, targets = (self._vectors(row[f"{side}_content"]) for side in ("history", "candidate"))
        items = ItemTable({CONTENT: torch.cat([torch.zeros(1, self.scorer.width), targets, past[order]])})
        rows_of = torch.arange(1, len(items))
        history_row = torch.zeros_like(batch.history_row)
        history_row[0, : len(order)] = rows_of[len(targets) :]
        batch = replace(batch, target_row=rows_of[None, : len(targets)], history_row=history_row)
        with torch.inference_mode():
            logits = self.scorer(batch, items)
        probabilities: list[float] = torch.sigmoid(logits[0]).tolist()
        return probabilities

    def _vectors(self, values: Any) -> Tensor:
        rows = [np.asarray(value, np.float32) for value in values]
        return torch.from_numpy(np.stack(rows)) if rows else torch.zeros(0, self.scorer.width)


def _interest_row(artifact: Artifact, items: Artifact | None) -> dict[str, Any]:
    if items is None:
        raise UserError("a scorer is registered together with the item table it was trained on; pass it as items")
    ids = pq.read_table(artifact.path / RANKER / "vocabulary.parquet", columns=["item_id"])["item_id"]
    count = min(len(ids), 4)
    first = ItemTable.open(items.path).gather(torch.arange(1, count + 1))[CONTENT].tolist()
    return {
        "history_item_ids": ids.slice(0, 2).to_pylist(),
        "history_labels": [1, 0][:count],
        "history_times": [1_700_000_000, 1_700_000_600][:count],
        "history_content": first[:2],
        "candidate_item_ids": [*ids.slice(2, 2).to_pylist(), "an-unknown-item"],
        "candidate_content": [*first[2:], first[0]],
        "now": 1_700_001_200,
    }


def _interest_columns(artifact: Artifact) -> ColumnSpecs:
    return content_column(artifact.metadata["width"]) if "width" in artifact.metadata else {}


KINDS = (
    ArtifactKind(
        "encoder",
        inputs=CONTENT_FIELDS,
        outputs=(FieldSpec(CONTENT, "double", 1),),
        load=ContentModel,
        example=content_row,
        evaluated_as="max_similarity",
        purpose="Maps an item's image and text to a vector in which items that users choose in turn lie close.",
        limitations=unused_content,
    ),
    ArtifactKind(
        SCORER,
        inputs=(
            FieldSpec("history_item_ids", "string", 1),
            FieldSpec("history_labels", "long", 1),
            FieldSpec("history_times", "long", 1),
            FieldSpec("history_content", "double", 2),
            FieldSpec("candidate_item_ids", "string", 1),
            FieldSpec("candidate_content", "double", 2),
            FieldSpec("now", "long", required=False),
        ),
        outputs=(FieldSpec("scores", "double", 1),),
        load=InterestModel,
        example=_interest_row,
        evaluated_as="release",
        purpose="Predicts click probabilities from IDs and from the content of candidates and history.",
        reads=_interest_columns,
        limitations=unused_content,
    ),
)
"""In the order of their lineage."""
