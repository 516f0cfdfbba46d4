"""What IDProxy registers: ranker, encoder and scorer, each as a model that MLflow can load and call."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from coldstart.config import Artifact, UserError
from coldstart.data.item_table import ColumnSpecs, ItemTable
from coldstart.methods.base import SCORER, ArtifactKind, FieldSpec
from coldstart.methods.idproxy.scorers import COARSE, STATES, encoder_columns, load_proxies
from coldstart.methods.registered_content import (
    CONTENT_FIELDS,
    content_row,
    encoder_limitations,
    read_contents,
    unused_content,
)
from coldstart.methods.registered_ranker import RANKER


class EncoderModel:
    """Rows of content -> coarse proxy `[d]` and layer states `[G, D]`."""

    def __init__(self, path: Path) -> None:
        from coldstart.encoders import Encoder  # Ranker and scorer are loaded without the MLLM stack.

        self.encoder = Encoder.load(path, "cpu")

    def predict(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Columns title, text, image (encoded image bytes, or base64 of them); each may be missing or null."""
        contents = read_contents(rows)
        with torch.inference_mode():
            coarse, states = self.encoder(self.encoder.inputs(self.encoder.prepare(contents), "cpu"))
        return pd.DataFrame({COARSE: coarse.tolist(), STATES: states.tolist()})


class ScorerModel:
    """Rows of a coarse proxy `[d]` and layer states `[G, D]` -> fine proxy `[d]`, the last of the scorer's columns."""

    def __init__(self, path: Path) -> None:
        self.adaptor = load_proxies(path)

    def predict(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Columns coarse and states -> proxy."""
        coarse = torch.tensor([list(row) for row in rows[COARSE]], dtype=torch.float32)
        states = torch.from_numpy(np.array([np.stack(list(row)) for row in rows[STATES]], np.float32))
        with torch.inference_mode():
            proxies = self.adaptor({COARSE: coarse, STATES: states})["proxy"]
        return pd.DataFrame({"proxy": proxies.tolist()})


def _scorer_row(artifact: Artifact, items: Artifact | None) -> dict[str, Any]:
    if items is None:
        raise UserError("a scorer is registered together with the item table it was trained on; pass it as items")
    first = ItemTable.open(items.path).gather(torch.ones(1, dtype=torch.int64))
    return {name: first[name][0].tolist() for name in (COARSE, STATES)}


def _scorer_columns(artifact: Artifact) -> ColumnSpecs:
    sizes: list[int] = [
        artifact.metadata[key] for key in ("width", "groups", "state_width") if key in artifact.metadata
    ]
    return encoder_columns(*sizes) if len(sizes) == 3 else {}


KINDS = (
    RANKER,
    ArtifactKind(
        "encoder",
        inputs=CONTENT_FIELDS,
        outputs=(FieldSpec(COARSE, "double", 1), FieldSpec(STATES, "double", 2)),
        load=EncoderModel,
        example=content_row,
        evaluated_as="coarse",
        purpose="Maps an item's image and text to a coarse proxy in the ranker's ID space, and to layer states.",
        limitations=encoder_limitations,
        shared_with=("baselines",),
    ),
    ArtifactKind(
        SCORER,
        inputs=(FieldSpec(COARSE, "double", 1), FieldSpec(STATES, "double", 2)),
        outputs=(FieldSpec("proxy", "double", 1),),
        load=ScorerModel,
        example=_scorer_row,
        evaluated_as="release",
        purpose="Scores candidates by IDs and proxies. As a model, it maps an item's coarse proxy and layer states to "
        "the fine proxy. Its promotion also promotes the ranker and the encoder that it was made with.",
        reads=_scorer_columns,
        limitations=unused_content,
    ),
)
"""In the order of their lineage."""
