"""The item effect alone: a bias from content that is the same for all users, beside the OOV score.

Legend: `B` rows, `T` targets, `n` items, `d` ID width, `D` MLLM width, `G` layer groups.
"""

import torch
from torch import Tensor, nn

from coldstart.data.batches import RankBatch
from coldstart.data.item_table import ColumnSpec, ItemTable
from coldstart.methods.idproxy.adaptor import content_mlp, normalize_groups
from coldstart.rankers import Ranker
from coldstart.rankers.scorer import RankerScorer

BIAS = "bias"


class ItemBiasScorer(RankerScorer):
    """The ranker's logit and, for items without an ID row, a bias from content that is the same for all users.

    Args:
        ranker: The ranker.
    """

    def __init__(self, ranker: Ranker) -> None:
        super().__init__(ranker)
        self.inputs = {BIAS: ColumnSpec("float32", (1,))}

    def forward(self, batch: RankBatch, items: ItemTable) -> Tensor:
        """Click logits `[B, T]`; an item without a row in the table has no bias."""
        bias = items.gather(batch.target_row)[BIAS].squeeze(-1)
        logits: Tensor = self.ranker(batch, self.ranker.id_slots(batch.target_idx))
        return logits + bias * (~self.ranker.trained[batch.target_idx] & (batch.target_row > 0))


class RankerWithItemBias(nn.Module):
    """The ranker's logit plus an item bias from content, the same for all users."""

    def __init__(self, ranker: Ranker) -> None:
        super().__init__()
        self.ranker = ranker

    def forward(self, batch: RankBatch, slots: Tensor) -> Tensor:
        """Logits `[B, T]` of slots `[B, T, d + 1]`: an ID row and a bias."""
        logits: Tensor = self.ranker(batch, slots[..., :-1]) + slots[..., -1]
        return logits


class ContentBias(nn.Module):
    """A bias that an MLP computes from the layer states.

    Args:
        groups: `G`.
        state_width: `D`.
        units: Hidden units of the MLP; 0 for a linear map.
        dropout: Dropout rate of the MLP.
    """

    def __init__(self, groups: int, state_width: int, units: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = {"groups": groups, "state_width": state_width, "units": units}
        self.norms = nn.ModuleList(nn.LayerNorm(state_width) for _ in range(groups))
        self.mlp = content_mlp(groups * state_width, units, 1, dropout)

    def forward(self, states: Tensor) -> Tensor:
        """`[n, 1]` from layer states `[n, G, D]`."""
        bias: Tensor = self.mlp(normalize_groups(self.norms, states))
        return bias


class UnknownWithBias(nn.Module):
    """The OOV row and the bias of an item, for training.

    Args:
        unknown: [d] the OOV row.
        bias: From layer states.
    """

    unknown: Tensor

    def __init__(self, unknown: Tensor, bias: ContentBias) -> None:
        super().__init__()
        self.register_buffer("unknown", unknown)
        self.bias = bias

    def forward(self, coarse: Tensor, states: Tensor) -> Tensor:
        """`[n, d + 1]` from layer states `[n, G, D]`; the coarse proxies are ignored."""
        bias = self.bias(states)
        return torch.cat([self.unknown.expand(len(bias), -1), bias], dim=-1)
