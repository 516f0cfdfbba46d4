"""The run's ranker as a registered model, for every method that is built on it."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch

from coldstart.config import Artifact
from coldstart.data.batches import rank_request
from coldstart.data.features import EncodedFeatures, candidate_features
from coldstart.methods.base import ArtifactKind, FieldSpec
from coldstart.rankers import load_ranker, read_item_index
from coldstart.rankers.storage import read_item_features


class RankerModel:
    """Rows of one user's history and candidates -> click probabilities in candidate order."""

    def __init__(self, path: Path) -> None:
        self.ranker = load_ranker(path)
        self.item_index = read_item_index(path)
        self.item_features = read_item_features(path, self.ranker.features)

    def predict(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Columns history_item_ids, history_labels, history_times, candidate_item_ids -> scores.

        Optional columns: now, user_features and context (feature -> raw value).
        """
        return pd.DataFrame({"scores": [self._row(row) for row in rows.to_dict("records")]})

    def _row(self, row: dict[str, Any]) -> list[float]:
        now, schema = row.get("now"), self.ranker.features
        candidates = np.array([self.item_index.get(item, 0) for item in row["candidate_item_ids"]], np.int64)
        item = EncodedFeatures(self.item_features.categorical[candidates], self.item_features.numeric[candidates])
        user, context_values = (row.get(name) for name in ("user_features", "context"))
        batch = rank_request(
            [self.item_index.get(item, 0) for item in row["history_item_ids"]],
            list(row["history_labels"]),
            list(row["history_times"]),
            candidates,
            int(time.time()) if now is None or pd.isna(now) else int(now),
            history=self.ranker.max_history,
            features=candidate_features(
                schema,
                item,
                schema.encode_values("user", user if isinstance(user, dict) else {}),
                schema.encode_values("context", context_values if isinstance(context_values, dict) else {}),
            ),
        )
        with torch.inference_mode():
            logits = self.ranker(batch, self.ranker.id_slots(batch.target_idx))
        probabilities: list[float] = torch.sigmoid(logits[0]).tolist()
        return probabilities


def _ranker_row(artifact: Artifact, items: Artifact | None) -> dict[str, Any]:
    table = pq.read_table(artifact.path / "vocabulary.parquet", columns=["item_id", "trained"])
    trained = table.filter(table["trained"])["item_id"].slice(0, 5).to_pylist()
    return {
        "history_item_ids": trained[:2],
        "history_labels": [1, 0][: len(trained)],
        "history_times": [1_700_000_000, 1_700_000_600][: len(trained)],
        "candidate_item_ids": [*trained[2:], "an-unknown-item"],
        "now": 1_700_001_200,
    }


RANKER = ArtifactKind(
    "ranker",
    inputs=(
        FieldSpec("history_item_ids", "string", 1),
        FieldSpec("history_labels", "long", 1),
        FieldSpec("history_times", "long", 1),
        FieldSpec("candidate_item_ids", "string", 1),
        FieldSpec("now", "long"),
    ),
    outputs=(FieldSpec("scores", "double", 1),),
    load=RankerModel,
    example=_ranker_row,
    evaluated_as="id",
    purpose="Predicts click probabilities of candidates from a user's history.",
)
"""The kind of the run's ranker."""
