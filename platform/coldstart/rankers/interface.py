"""The ranker interface: a CTR model that scores vectors in item slots.

Legend: `B` rows, `T` targets, `L` history, `d` ID width, `V` vocabulary (items + 1; row 0 is OOV).
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from coldstart.config import UserError
from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.data.batches import RankBatch
from coldstart.rankers.feature_embedding import NO_FEATURES, FeatureSchema
from coldstart.rankers.id_table import make_id_table

INIT_SCALE = 0.3


class Ranker(nn.Module, ABC):
    """A CTR model with an ID table and a slot for the target's vector.

    Args:
        vocab_size: `V`, items + 1.
        settings: The recipe's section `ranker`.
        features: Features of user, item and context in the dataset.

    Attributes:
        id_table: Maps item indices to ID embeddings; row 0 (OOV) is used for every item without a trained row.
        trained: Bool buffer `[V]`, True for items with a trained row; all others resolve to row 0.
    """

    trained: Tensor

    def __init__(self, vocab_size: int, settings: RankerSettings, features: FeatureSchema = NO_FEATURES) -> None:
        super().__init__()
        self.settings = settings
        self.features = features
        self.id_table = make_id_table(vocab_size, settings.embedding_dim, settings.table)
        self.register_buffer("trained", torch.zeros(vocab_size, dtype=torch.bool))

    @property
    def vocab_size(self) -> int:
        """`V`, items + 1."""
        return len(self.trained)

    @property
    def embedding_dim(self) -> int:
        """`d`, width of an ID embedding and of a slot."""
        return self.settings.embedding_dim

    @property
    def max_history(self) -> int:
        """Longest history of a target, in events."""
        return self.settings.max_history

    def resolve(self, item_idx: Tensor) -> Tensor:
        """Item indices with every untrained item replaced by 0 (OOV). The shape does not change."""
        return item_idx * self.trained[item_idx]

    def id_slots(self, item_idx: Tensor) -> Tensor:
        """ID embeddings of items, the OOV row for untrained ones: `[...]` int64 -> `[..., d]`."""
        slots: Tensor = self.id_table(self.resolve(item_idx))
        return slots

    def id_rows(self) -> Tensor:
        """The whole ID table `[V, d]`, detached, for every kind of table."""
        return self.id_table.rows()

    def init_from(self, rows: Tensor) -> None:
        """Initializes the ID table from `svd_item_init`: rows `[V, d]`, with the item effect in column 0."""
        self.id_table.init_from(rows, INIT_SCALE)

    @abstractmethod
    def forward(self, batch: RankBatch, slots: Tensor) -> Tensor:
        """Click logits `[B, T]`, with `slots` `[B, T, d]` in place of the targets' ID embeddings."""


class InteractionRanker(Ranker):
    """A ranker in two parts: the interaction of a slot with the history, and an MLP on top.

    All built-in rankers are of this kind. The joint ranker applies the first part to several slots of one item.

    Attributes:
        mlp: The second part, `[..., w]` to `[..., 1]`.
    """

    mlp: nn.Sequential

    @abstractmethod
    def interact(self, batch: RankBatch, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `[B, T]` that bypass the MLP, and the MLP's input `[B, T, w]`, for slots `[B, T, d]`."""

    def forward(self, batch: RankBatch, slots: Tensor) -> Tensor:
        """Click logits `[B, T]`, with `slots` `[B, T, d]` in place of the targets' ID embeddings."""
        logits, mlp_input = self.interact(batch, slots)
        out: Tensor = logits + self.mlp(mlp_input).squeeze(-1)
        return out


def require_interaction(ranker: Ranker, *, needed_by: str, otherwise: str) -> InteractionRanker:
    """Returns the ranker if it is an `InteractionRanker`.

    Args:
        ranker: Any ranker.
        needed_by: What needs one, in the error.
        otherwise: What to do if the ranker cannot become one, in the error.

    Raises:
        UserError: it is not.
    """
    if isinstance(ranker, InteractionRanker):
        return ranker
    raise UserError(
        f"{needed_by} needs an InteractionRanker, and {ranker.settings.kind} is not one; subclass "
        f"coldstart.rankers.InteractionRanker (`interact` and `mlp`), or {otherwise}"
    )
