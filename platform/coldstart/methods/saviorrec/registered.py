"""What SaviorRec registers: ranker, encoder, quantizer and scorer, each as a model that MLflow can load and call."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

from coldstart.config import Artifact, UserError
from coldstart.data.item_table import ColumnSpecs, ItemTable
from coldstart.methods.base import SCORER, ArtifactKind, FieldSpec
from coldstart.methods.registered_content import (
    CONTENT_FIELDS,
    content_row,
    encoder_limitations,
    read_contents,
    unused_content,
)
from coldstart.methods.registered_ranker import RANKER
from coldstart.methods.saviorrec.config import Rank
from coldstart.methods.saviorrec.item_encoder import SemanticIds
from coldstart.methods.saviorrec.model import CODES, CONFIG, CONTENT, WEIGHTS, MBABlock, content_columns
from coldstart.modules.residual_quantizer import load_quantizer

QUANTIZER = "quantizer"
_CONTENT_VECTOR = FieldSpec(CONTENT, "double", 1)
_CODES = FieldSpec(CODES, "long", 1)


class EncoderModel:
    """Rows of content -> content vectors `[k]`."""

    def __init__(self, path: Path) -> None:
        from coldstart.encoders import Encoder  # The other models are loaded without the MLLM stack.
        from coldstart.methods.saviorrec.content_encoder import ContentEncoder

        self.encoder = ContentEncoder(Encoder.load(path, "cpu"), "cpu")

    def predict(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Columns title, text, image (encoded image bytes, or base64 of them); each may be missing or null."""
        return pd.DataFrame({CONTENT: self.encoder.encode(read_contents(rows))[CONTENT].tolist()})


class QuantizerModel:
    """Rows of content vectors `[k]` -> codes `[Lq]`, from 1."""

    def __init__(self, path: Path) -> None:
        self.semantic_ids = SemanticIds(load_quantizer(path))

    def predict(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Column content -> codes."""
        columns = self.semantic_ids({CONTENT: _vectors(rows)})
        return pd.DataFrame({CODES: columns[CODES].tolist()})


class ScorerModel:
    """Rows of a content vector `[k]` and codes `[Lq]` -> the corrected vector `[k]`."""

    def __init__(self, path: Path) -> None:
        config = json.loads((path / CONFIG).read_text())
        rank = Rank.model_validate(config["rank"])
        self.mba: MBABlock | None = None
        if not rank.ablate.without_mba:
            units = None if rank.ablate.sum_codebooks else rank.fusion_units
            self.mba = MBABlock(config["width"], config["sizes"], units)
            weights = load_file(path / WEIGHTS)
            own = {name.removeprefix("mba."): value for name, value in weights.items() if name.startswith("mba.")}
            self.mba.load_state_dict(own)

    @torch.inference_mode()
    def predict(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Columns content and codes -> content."""
        content = _vectors(rows)
        codes = torch.from_numpy(np.array([list(row) for row in rows[CODES]], np.int16))
        return pd.DataFrame({CONTENT: (content if self.mba is None else self.mba(content, codes)).tolist()})


def _vectors(rows: pd.DataFrame) -> torch.Tensor:
    return torch.tensor([list(row) for row in rows[CONTENT]], dtype=torch.float32)


def _quantizer_row(artifact: Artifact, items: Artifact | None) -> dict[str, Any]:
    return {CONTENT: [1.0, *[0.0] * (artifact.metadata["width"] - 1)]}


def _scorer_row(artifact: Artifact, items: Artifact | None) -> dict[str, Any]:
    if items is None:
        raise UserError("a scorer is registered together with the item table it was trained on; pass it as items")
    content = ItemTable.open(items.path).gather(torch.ones(1, dtype=torch.int64))[CONTENT]
    return {CONTENT: content[0].tolist(), CODES: [1] * artifact.metadata["levels"]}


def _reads(artifact: Artifact) -> ColumnSpecs:
    return content_columns(artifact.metadata["width"])


KINDS = (
    RANKER,
    ArtifactKind(
        "encoder",
        inputs=CONTENT_FIELDS,
        outputs=(_CONTENT_VECTOR,),
        load=EncoderModel,
        example=content_row,
        evaluated_as="uncorrected",
        purpose="Maps an item's image and text to a content vector.",
        limitations=encoder_limitations,
    ),
    ArtifactKind(
        QUANTIZER,
        inputs=(_CONTENT_VECTOR,),
        outputs=(_CODES,),
        load=QuantizerModel,
        example=_quantizer_row,
        evaluated_as="release",
        purpose="Maps a content vector to a semantic ID: one code per level, from 1. Similar items share codes.",
        reads=_reads,
        limitations=unused_content,
    ),
    ArtifactKind(
        SCORER,
        inputs=(_CONTENT_VECTOR, _CODES),
        outputs=(_CONTENT_VECTOR,),
        load=ScorerModel,
        example=_scorer_row,
        evaluated_as="release",
        purpose="Scores candidates by IDs, content vectors and codes. As a model, it adds to an item's content vector "
        "the correction that clicks have taught for its codes. Its promotion also promotes the ranker, the encoder and "
        "the quantizer that it was made with.",
        reads=_reads,
        limitations=unused_content,
    ),
)
"""In the order of their lineage."""
