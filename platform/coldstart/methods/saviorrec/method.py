"""SaviorRec as a method: how its artifacts are loaded and what it registers.

The MLLM stack and training are imported where they are used: a scorer replica needs none of them.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from coldstart.config import Artifact, Recipe
from coldstart.data.dataset import Dataset
from coldstart.data.item_table import ItemTable
from coldstart.methods.base import (
    ITEM_TABLE,
    SCORER,
    Champion,
    ItemAdaptor,
    ItemEncoder,
    Method,
    Parts,
    Stage,
    Variant,
)
from coldstart.methods.saviorrec.item_encoder import SemanticIds, check_matches, load_pool
from coldstart.methods.saviorrec.model import CODES, CONTENT, RANKER, load_scorer
from coldstart.methods.saviorrec.registered import KINDS, QUANTIZER
from coldstart.modules.residual_quantizer import load_quantizer
from coldstart.rankers.scorer import Scorer
from coldstart.rankers.storage import load_id_embeddings


class SaviorRec(Method):
    """Content vectors and semantic IDs of target and history, in a ranker whose correction of content is per code."""

    name = "saviorrec"
    kinds = KINDS
    encoder_kinds = ("encoder",)
    code_column = CODES

    def catalog_dir(self, parts: Parts) -> Path:
        """The ranker."""
        return parts["ranker"]

    def load_encoder(self, parts: Parts, device: torch.device | str) -> ItemEncoder:
        """The frozen MLLM."""
        from coldstart.encoders import Encoder
        from coldstart.methods.saviorrec.content_encoder import ContentEncoder

        return ContentEncoder(Encoder.load(parts["encoder"], device), device)

    def load_adaptor(self, parts: Parts) -> ItemAdaptor:
        """The quantizer, which adds codes to content vectors."""
        return SemanticIds(load_quantizer(parts[QUANTIZER]), load_pool(parts[SCORER])).eval()

    def load_scorer(self, parts: Parts) -> Scorer:
        """The ranker with correction and attentions.

        Raises:
            UserError: a part is damaged, or the scorer was trained with another quantizer.
        """
        scorer = load_scorer(parts[SCORER], parts["ranker"])
        check_matches(load_quantizer(parts[QUANTIZER]), scorer.width, scorer.sizes)
        return scorer

    def stages(self, recipe: Recipe) -> tuple[Stage, ...]:
        """Encoder, embedding, pairs, quantizer, scorer."""
        from coldstart.methods.saviorrec.stages import stages

        return stages(self, recipe)

    def update(self, recipe: Recipe, champion: Champion) -> Artifact:
        """Codebooks and fusion MLP of the correction."""
        from coldstart.methods.saviorrec.update import run

        return run(recipe, champion)

    def variants(self, recipe: Recipe, dataset: Dataset, parts: Parts) -> list[Variant]:
        """The served scorer, with and without its correction."""
        from coldstart.methods.saviorrec.variants import variants

        return variants(self, parts)

    def neighbor_column(self, parts: Parts) -> str:
        """Content vectors."""
        return CONTENT

    def neighbor_rows(self, parts: Parts) -> tuple[NDArray[Any], NDArray[Any]]:
        """Items with a trained ID row, and their content vectors."""
        own = parts[SCORER] / RANKER
        ids = load_id_embeddings(own if own.is_dir() else parts["ranker"])
        trained = np.flatnonzero(ids.trained.numpy())
        content = ItemTable.open(parts[ITEM_TABLE]).gather(torch.from_numpy(trained))[CONTENT]
        return trained, content.numpy()


METHOD = SaviorRec()
