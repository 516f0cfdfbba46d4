"""The baselines as a method: how their artifacts are loaded and what they register.

Encoders, fitting and evaluation are imported where they are used: a scorer replica needs none of them.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from coldstart.config import Recipe
from coldstart.config.recipe.method import RELEASE
from coldstart.data.dataset import Dataset
from coldstart.data.item_table import ItemTable
from coldstart.methods.base import (
    ITEM_TABLE,
    SCORER,
    ItemAdaptor,
    ItemEncoder,
    Method,
    Parts,
    Stage,
    Variant,
    adapt,
)
from coldstart.methods.baselines.registered import KINDS
from coldstart.methods.baselines.saved import load_adaptor, load_scorer
from coldstart.methods.baselines.similarity_scorer import CONTENT, TEXT
from coldstart.methods.idproxy.scorers import COARSE, PROXY
from coldstart.rankers import load_ranker
from coldstart.rankers.scorer import Scorer
from coldstart.rankers.storage import load_id_embeddings

NEIGHBOR_COLUMNS = (TEXT, CONTENT, COARSE, PROXY)
"""By the first of these that a baseline has, similar items are found; `mean_row` has the same proxy for all items."""


class Baselines(Method):
    """A ranker that stays as it is, and what is fitted to content beside it."""

    name = "baselines"
    kinds = KINDS
    encoder_kinds = ("encoder",)

    def catalog_dir(self, parts: Parts) -> Path:
        """The ranker."""
        return parts["ranker"]

    def load_encoder(self, parts: Parts, device: torch.device | str) -> ItemEncoder:
        """Text vectors, the aligned MLLM, or both."""
        from coldstart.methods.baselines.encoder import BaselineEncoder

        return BaselineEncoder.load(parts["encoder"], device)

    def load_adaptor(self, parts: Parts) -> ItemAdaptor:
        """What was fitted to content."""
        return load_adaptor(parts[SCORER])

    def load_scorer(self, parts: Parts) -> Scorer:
        """The unchanged ranker with what was fitted beside it."""
        return load_scorer(parts[SCORER], load_ranker(parts["ranker"]))

    def stages(self, recipe: Recipe) -> tuple[Stage, ...]:
        """Encoder, embedding, baseline."""
        from coldstart.methods.baselines.stages import stages

        return stages(self, recipe)

    def variants(self, recipe: Recipe, dataset: Dataset, parts: Parts) -> list[Variant]:
        """The served baseline."""
        adaptor = self.load_adaptor(parts)
        items = adapt(adaptor, ItemTable.open(parts[ITEM_TABLE]))
        options: dict[str, Any] = {"own_model": True, "item_effect": True, "adapt": partial(adapt, adaptor)}
        return [Variant(RELEASE, self.load_scorer, items, **options)]

    def neighbor_column(self, parts: Parts) -> str:
        """Text or content vectors if the baseline has them, else proxies."""
        found = self.load_adaptor(parts).outputs
        return next(name for name in NEIGHBOR_COLUMNS if name in found)

    def neighbor_rows(self, parts: Parts) -> tuple[NDArray[Any], NDArray[Any]]:
        """Items with text or content, and their vectors; or items with a trained ID row, and these rows."""
        column = self.neighbor_column(parts)
        if column in (COARSE, PROXY):
            ids = load_id_embeddings(parts["ranker"])
            trained = np.flatnonzero(ids.trained.numpy())
            return trained, ids.rows.numpy()[trained]
        vectors = adapt(self.load_adaptor(parts), ItemTable.open(parts[ITEM_TABLE])).columns[column].numpy()
        known = np.flatnonzero(vectors.any(axis=1))
        return known, vectors[known]


METHOD = Baselines()
