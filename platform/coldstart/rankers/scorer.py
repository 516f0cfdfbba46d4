"""The scorer interface: the CTR model of a method, which clicks train and which is evaluated and served.

Legend: `B` rows, `T` targets, `L` history, `d` ID width, `V` vocabulary (items + 1; row 0 is OOV).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from coldstart.data.batches import RankBatch
from coldstart.data.item_table import ColumnSpec, ColumnSpecs, ItemTable
from coldstart.rankers.feature_embedding import FeatureSchema
from coldstart.rankers.interface import Ranker

NO_COLUMNS: Mapping[str, ColumnSpec] = {}


class Scorer(nn.Module, ABC):
    """A CTR model that reads columns of an item table, for targets and, if it wants, for the history.

    It uses `batch.target_row` and `batch.history_row` to look up the item table, and `batch.target_idx` and
    `batch.history_idx` to look up ID embeddings.

    Attributes:
        inputs: Columns of the item table that `forward` reads.
        reads_history: Whether it reads them for history events, too.
    """

    inputs: ColumnSpecs = NO_COLUMNS
    reads_history: bool = False

    @property
    @abstractmethod
    def max_history(self) -> int:
        """Longest history of a target, in events."""

    @property
    @abstractmethod
    def features(self) -> FeatureSchema:
        """Features of user, item and context that it reads."""

    @property
    @abstractmethod
    def id_weight(self) -> Tensor:
        """`[V]` how much of a target's ID row each item uses: 1 for the ID row alone, 0 for content alone."""

    @abstractmethod
    def forward(self, batch: RankBatch, items: ItemTable) -> Tensor:
        """Click logits `[B, T]`."""


class RankerScorer(Scorer):
    """A scorer that adds an item table to a ranker.

    Args:
        ranker: Has the ID table.
    """

    def __init__(self, ranker: Ranker) -> None:
        super().__init__()
        self.ranker = ranker

    @property
    def max_history(self) -> int:
        """Longest history of a target, in events."""
        return self.ranker.max_history

    @property
    def features(self) -> FeatureSchema:
        """Features that the ranker reads."""
        return self.ranker.features

    @property
    def id_weight(self) -> Tensor:
        """`[V]` 1 for every item with a trained ID row."""
        return self.ranker.trained.float()


class IdScorer(RankerScorer):
    """The ranker alone: targets have their ID rows; it reads no column."""

    def forward(self, batch: RankBatch, items: ItemTable) -> Tensor:
        """Click logits `[B, T]`; ignores `items`."""
        logits: Tensor = self.ranker(batch, self.ranker.id_slots(batch.target_idx))
        return logits


class SlotScorer(RankerScorer):
    """The ranker with the column `slot` `[d]` in the item slots of all targets; histories keep their ID rows."""

    def __init__(self, ranker: Ranker) -> None:
        super().__init__(ranker)
        self.inputs = {"slot": ColumnSpec("float32", (ranker.embedding_dim,))}

    def forward(self, batch: RankBatch, items: ItemTable) -> Tensor:
        """Click logits `[B, T]`."""
        logits: Tensor = self.ranker(batch, items.gather(batch.target_row)["slot"])
        return logits


def slot_table(slots: Tensor) -> ItemTable:
    """An item table for a `SlotScorer`: `slots` `[V, d]`."""
    return ItemTable({"slot": slots})


def unknown_targets(batch: RankBatch) -> RankBatch:
    """The batch with all targets replaced by the unknown item: no ID and no content."""
    zeros = torch.zeros_like(batch.target_idx)
    return replace(batch, target_idx=zeros, target_row=zeros)


def drop_target_ids(batch: RankBatch) -> RankBatch:
    """The batch with the IDs, but not the content, of all targets dropped."""
    return batch.with_ids(target_idx=torch.zeros_like(batch.target_idx))
