"""MIM as a method: how its artifacts are loaded and what it registers.

The towers' libraries and training are imported where they are used: a scorer replica needs none of them.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from coldstart.config import Recipe
from coldstart.data.dataset import Dataset
from coldstart.data.item_table import ItemTable
from coldstart.methods.base import (
    ITEM_TABLE,
    SCORER,
    ItemAdaptor,
    ItemEncoder,
    KeepColumns,
    Method,
    Parts,
    Stage,
    Variant,
)
from coldstart.methods.mim.columns import CONTENT, content_column
from coldstart.methods.mim.registered import KINDS
from coldstart.methods.mim.scorer import RANKER, load_scorer, read_width
from coldstart.rankers.scorer import Scorer


class MIM(Method):
    """Content of target and history, compared by cosines, beside the IDs of both."""

    name = "mim"
    kinds = KINDS
    encoder_kinds = ("encoder",)

    def catalog_dir(self, parts: Parts) -> Path:
        """The scorer's own ranker."""
        return parts[SCORER] / RANKER

    def load_encoder(self, parts: Parts, device: torch.device | str) -> ItemEncoder:
        """The towers with their fusion."""
        from coldstart.methods.mim.content_encoder import ContentEncoder, FusedContent

        return FusedContent(ContentEncoder.load(parts["encoder"], device), device)

    def load_adaptor(self, parts: Parts) -> ItemAdaptor:
        """The scorer reads what the encoder writes."""
        return KeepColumns(content_column(read_width(parts[SCORER]))).eval()

    def load_scorer(self, parts: Parts) -> Scorer:
        """The ranker with its content units."""
        return load_scorer(parts[SCORER])

    def stages(self, recipe: Recipe) -> tuple[Stage, ...]:
        """Alignment of the towers, fine-tuning on clicks, embedding, the scorer."""
        from coldstart.methods.mim.stages import stages

        return stages(self, recipe)

    def variants(self, recipe: Recipe, dataset: Dataset, parts: Parts) -> list[Variant]:
        """Similarity alone, the scorer without content, the served scorer."""
        from coldstart.methods.mim.variants import variants

        return variants(self, parts)

    def neighbor_column(self, parts: Parts) -> str:
        """Content vectors."""
        return CONTENT

    def neighbor_rows(self, parts: Parts) -> tuple[NDArray[Any], NDArray[Any]]:
        """All items of the catalog that have content, and their vectors."""
        vectors = ItemTable.open(parts[ITEM_TABLE]).columns[CONTENT].numpy()
        known = np.flatnonzero(vectors.any(axis=1))
        return known, vectors[known]


METHOD = MIM()
