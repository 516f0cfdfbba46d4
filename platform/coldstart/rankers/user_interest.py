"""A user's personal preferences, as one vector in the space of item slots.

Legend: `B` rows, `T` targets, `L` history, `d` ID width.
"""

import torch
from torch import Tensor, nn

from coldstart.data.batches import RankBatch
from coldstart.modules.time_gap import TimeGapBias


class UserInterest(nn.Module):
    """Time-weighted sum of the keys of past items, each times its click residual (label minus expected click rate).

    The mean residual is subtracted first. Otherwise a user who clicks more than expected would seem to like every
    item. Costs `L (2 d + 2)` multiplications per target.

    Args:
        width: `d`.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.key = nn.Linear(width, width, bias=False)
        nn.init.eye_(self.key.weight)
        self.time_gap_bias = TimeGapBias(1, masked_value=0.0)
        self.log_prior = nn.Parameter(torch.full((width,), 2.0))
        self.log_gain = nn.Parameter(torch.tensor(2.0))

    def forward(self, batch: RankBatch, history: Tensor, expected: Tensor, time_gap: Tensor, shrink: Tensor) -> Tensor:
        """User vectors `[B, T, d]`.

        Args:
            batch: Labels of the history.
            history: [B, L, d] slots of the past items.
            expected: [B, L] click logits predicted from item bias and prior click rate alone.
            time_gap: [B, T, L] from `time_gap_buckets`.
            shrink: Scalar, number of prior events that pull the mean residual towards zero.
        """
        (weight,) = self.time_gap_bias(time_gap, exponential=True)
        residual = (batch.history_label - torch.sigmoid(expected)).unsqueeze(-1)
        keys = self.key(history)
        columns = torch.cat([torch.ones_like(residual), residual, keys, residual * keys], dim=-1)
        total, residual_sum, key_sum, liked = (weight @ columns).split([1, 1, keys.shape[-1], keys.shape[-1]], dim=-1)
        mean_residual = residual_sum / (total + shrink)
        user: Tensor = (liked - mean_residual * key_sum) / (total + self.log_prior.exp())
        return user * self.log_gain.exp()
