"""The MLflow model inside every registered version: code for one artifact directory, without pickle.

MLflow copies this file into the model ("models from code") and runs it at load time, in any process that has the
`coldstart` package installed. Legend: `d` ID width, `D` MLLM width, `G` layer groups.
"""

import base64
import time
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import torch
from mlflow.models import set_model

from coldstart.config import read_artifact


class RankerModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Rows of one user's history and candidates -> click probabilities in candidate order."""

    def load_context(self, context: Any) -> None:
        """Verifies and loads the artifact."""
        from coldstart.rankers import load_ranker, read_item_index
        from coldstart.rankers.storage import read_item_features

        path = _verified(context, "ranker")
        self.ranker = load_ranker(path)
        self.item_index = read_item_index(path)
        self.item_features = read_item_features(path, self.ranker.features)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Columns history_item_ids, history_labels, history_times, candidate_item_ids -> scores.

        Optional columns: now, user_features and context (feature -> raw value).
        """
        scores = [self._row(row) for row in model_input.to_dict("records")]
        return pd.DataFrame({"scores": scores})

    def _row(self, row: dict[str, Any]) -> list[float]:
        from coldstart.data.batches import rank_request
        from coldstart.data.features import EncodedFeatures, candidate_features

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


class EncoderModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Rows of content -> coarse proxy `[d]` and layer states `[G, D]`."""

    def load_context(self, context: Any) -> None:
        """Verifies and loads the artifact."""
        from coldstart.encoders import Encoder

        self.encoder = Encoder.load(_verified(context, "encoder"), "cpu")

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Columns title, text, image (encoded image bytes, or base64 of them); each may be missing or null."""
        from coldstart.data.content import Content

        contents = [
            Content(_text(row.get("title")), _text(row.get("text")), _image(row.get("image")))
            for row in model_input.to_dict("records")
        ]
        with torch.inference_mode():
            coarse, states = self.encoder(self.encoder.inputs(self.encoder.prepare(contents), "cpu"))
        return pd.DataFrame({"coarse": coarse.tolist(), "states": states.tolist()})


class AdaptorModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Rows of a coarse proxy `[d]` and layer states `[G, D]` -> fine proxy `[d]`."""

    def load_context(self, context: Any) -> None:
        """Verifies and loads the artifact."""
        from coldstart.alignment import load_adaptor

        self.adaptor = load_adaptor(_verified(context, "adaptor"))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Columns coarse and states -> proxy."""
        coarse = torch.tensor([list(row) for row in model_input["coarse"]], dtype=torch.float32)
        states = torch.from_numpy(np.array([np.stack(list(row)) for row in model_input["states"]], np.float32))
        with torch.inference_mode():
            fine = self.adaptor(coarse, states)
        return pd.DataFrame({"proxy": fine.tolist()})


def _verified(context: Any, kind: str) -> Path:
    return read_artifact(Path(context.artifacts[kind]), kind).path


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _image(value: Any) -> bytes | None:
    if isinstance(value, str):
        return base64.b64decode(value, validate=True)
    return value if isinstance(value, bytes) else None


_MODELS = {"ranker": RankerModel, "encoder": EncoderModel, "adaptor": AdaptorModel}
_config = mlflow.models.ModelConfig(development_config={"kind": "ranker"})
set_model(_MODELS[_config.get("kind")]())
