"""The ranker interface, built around item slots.

Legend: `B` rows, `T` targets, `L` history, `d` ID width, `V` vocabulary (items + 1; row 0 is OOV).
"""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from coldstart.data.batches import RankBatch


class Ranker(nn.Module, ABC):
    """A CTR model with an ID table and a slot for the target's vector.

    Attributes:
        id_table: Embedding `[V, d]`; row 0 stands for every item without a trained row.
        trained: Bool buffer `[V]`; whether the item was in training. False rows resolve to row 0.
    """

    id_table: nn.Embedding
    trained: Tensor

    def resolve(self, item_idx: Tensor) -> Tensor:
        """Item indices with every untrained one replaced by 0 (OOV). Shape is kept."""
        return item_idx * self.trained[item_idx]

    def id_slots(self, item_idx: Tensor) -> Tensor:
        """ID embeddings of items, OOV for untrained ones: `[...]` int64 -> `[..., d]`."""
        slots: Tensor = self.id_table(self.resolve(item_idx))
        return slots

    @abstractmethod
    def forward(self, batch: RankBatch, slots: Tensor) -> Tensor:
        """Click logits `[B, T]` with `slots` `[B, T, d]` standing where the targets' ID embeddings stand."""
