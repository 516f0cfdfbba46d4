"""The ranker interface, built around item slots.

Legend: `B` rows, `T` targets, `L` history, `d` ID width, `V` vocabulary (items + 1; row 0 is OOV).
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.data.batches import RankBatch
from coldstart.rankers.features import NO_FEATURES, FeatureSchema
from coldstart.rankers.id_table import make_id_table

START_SCALE = 0.3


class Ranker(nn.Module, ABC):
    """A CTR model with an ID table and a slot for the target's vector.

    Args:
        vocabulary: `V`, items + 1.
        settings: The recipe's section.
        features: What the dataset knows of user, item and context beside the item itself.

    Attributes:
        id_table: Maps item indices to ID embeddings; row 0 stands for every item without a trained row.
        trained: Bool buffer `[V]`; whether the item was in training. False rows resolve to row 0.
    """

    trained: Tensor

    def __init__(self, vocabulary: int, settings: RankerSettings, features: FeatureSchema = NO_FEATURES) -> None:
        super().__init__()
        self.settings = settings
        self.features = features
        self.id_table = make_id_table(vocabulary, settings.width, settings.table)
        self.register_buffer("trained", torch.zeros(vocabulary, dtype=torch.bool))

    @property
    def vocabulary(self) -> int:
        """`V`, items + 1."""
        return len(self.trained)

    @property
    def width(self) -> int:
        """`d`, of an ID embedding and of a slot."""
        return self.settings.width

    @property
    def history(self) -> int:
        """Longest history a target sees, in events."""
        return self.settings.history

    def resolve(self, item_idx: Tensor) -> Tensor:
        """Item indices with every untrained one replaced by 0 (OOV). Shape is kept."""
        return item_idx * self.trained[item_idx]

    def id_slots(self, item_idx: Tensor) -> Tensor:
        """ID embeddings of items, OOV for untrained ones: `[...]` int64 -> `[..., d]`."""
        slots: Tensor = self.id_table(self.resolve(item_idx))
        return slots

    def id_rows(self) -> Tensor:
        """The whole ID table `[V, d]`, detached, whatever lies behind it."""
        return self.id_table.rows()

    def start_from(self, rows: Tensor) -> None:
        """Puts a first guess of appeal (column 0) and tastes, `[V, d]`, into the ID table."""
        self.id_table.start_from(rows, START_SCALE)

    @abstractmethod
    def forward(self, batch: RankBatch, slots: Tensor) -> Tensor:
        """Click logits `[B, T]` with `slots` `[B, T, d]` standing where the targets' ID embeddings stand."""


class ReadingRanker(Ranker):
    """A ranker in two parts: what is read off a slot in the light of the history, and an MLP that weighs it.

    All of the platform's rankers are of this kind; several slots of one item can be read by the same first part.

    Attributes:
        mlp: The second part, `[..., w]` to `[..., 1]`.
    """

    mlp: nn.Sequential

    @abstractmethod
    def read(self, batch: RankBatch, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `[B, T]` that need no MLP, and what the MLP reads, `[B, T, w]`, of slots `[B, T, d]`."""

    def forward(self, batch: RankBatch, slots: Tensor) -> Tensor:
        """Click logits `[B, T]` with `slots` `[B, T, d]` standing where the targets' ID embeddings stand."""
        logits, read = self.read(batch, slots)
        out: Tensor = logits + self.mlp(read).squeeze(-1)
        return out
