"""What a baseline registers: ranker, encoder and scorer, each as a model that MLflow can load and call."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from coldstart.config import Artifact, Recipe, UserError
from coldstart.config.recipe import settings_of
from coldstart.data.item_table import ColumnSpec, ColumnSpecs, ItemTable
from coldstart.methods.base import SCORER, ArtifactKind, FieldSpec
from coldstart.methods.baselines.config import Settings
from coldstart.methods.baselines.item_bias import BIAS
from coldstart.methods.baselines.saved import load_adaptor
from coldstart.methods.baselines.similarity_scorer import CONTENT, TEXT
from coldstart.methods.idproxy.scorers import COARSE, PROXY, STATES
from coldstart.methods.registered_content import (
    CONTENT_FIELDS,
    content_row,
    encoder_limitations,
    read_contents,
    unused_content,
)
from coldstart.methods.registered_ranker import RANKER

COLUMNS = "columns"
"""Key of a scorer's manifest: column of the encoder that its adaptor reads -> shape."""


class EncoderModel:
    """Rows of content -> text vectors, or coarse proxies and layer states, or all of them."""

    def __init__(self, path: Path) -> None:
        from coldstart.methods.baselines.encoder import BaselineEncoder  # A scorer is loaded without scikit-learn.

        self.encoder = BaselineEncoder.load(path, "cpu")

    def predict(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Columns title, text, image (encoded image bytes, or base64 of them); each may be missing or null."""
        columns = self.encoder.encode(read_contents(rows))
        return pd.DataFrame({name: values.tolist() for name, values in columns.items()})


class ScorerModel:
    """Rows of the encoder's columns -> the columns of the served item rows."""

    def __init__(self, path: Path) -> None:
        self.adaptor = load_adaptor(path)

    @torch.inference_mode()
    def predict(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The columns that the baseline reads."""
        columns = {name: _tensor(rows[name], spec) for name, spec in self.adaptor.inputs.items()}
        return pd.DataFrame({name: values.tolist() for name, values in self.adaptor(columns).items()})


def _tensor(values: pd.Series, spec: ColumnSpec) -> torch.Tensor:
    flat = [np.concatenate([np.ravel(part) for part in value]) for value in values]
    return torch.from_numpy(np.array(flat, np.float32)).view(-1, *spec.shape)


def _scorer_row(artifact: Artifact, items: Artifact | None) -> dict[str, Any]:
    if items is None:
        raise UserError("a scorer is registered together with the item table it was fitted on; pass it as items")
    first = ItemTable.open(items.path).gather(torch.ones(1, dtype=torch.int64))
    return {name: first[name][0].tolist() for name in _reads(artifact)}


def _reads(artifact: Artifact) -> ColumnSpecs:
    shapes: Mapping[str, list[int]] = artifact.metadata[COLUMNS]
    return {name: ColumnSpec("float32", tuple(shape)) for name, shape in shapes.items()}


def _encoder_limitations(recipe: Recipe) -> Sequence[str]:
    if settings_of(recipe, Settings).reads_aligned:
        return encoder_limitations(recipe)
    return ["It does not use: image.", "A text without any word of the catalog has no vector."]


_ENCODED = (
    FieldSpec(TEXT, "double", 1, required=False),
    FieldSpec(COARSE, "double", 1, required=False),
    FieldSpec(STATES, "double", 2, required=False),
)
_SERVED = tuple(FieldSpec(name, "double", 1, required=False) for name in (TEXT, CONTENT, PROXY, BIAS, COARSE))
KINDS = (
    RANKER,
    ArtifactKind(
        "encoder",
        inputs=CONTENT_FIELDS,
        outputs=_ENCODED,
        load=EncoderModel,
        example=content_row,
        evaluated_as="release",
        purpose="Maps an item's content to vectors that need no training (TF-IDF), or to those of the aligned MLLM.",
        limitations=_encoder_limitations,
        shared_with=("idproxy",),
    ),
    ArtifactKind(
        SCORER,
        inputs=_ENCODED,
        outputs=_SERVED,
        load=ScorerModel,
        example=_scorer_row,
        evaluated_as="release",
        purpose="Scores candidates by IDs and, as a baseline, by what is fitted to their content. As a model, it maps "
        "the encoder's vectors to those that it reads. Its promotion also promotes the ranker and the encoder that it "
        "was made with.",
        reads=_reads,
        limitations=unused_content,
    ),
)
"""In the order of their lineage."""
