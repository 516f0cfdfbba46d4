"""What a user likes beyond what everybody likes, as one vector in the item slot's space.

Legend: `B` rows, `T` targets, `L` history, `d` ID width.
"""

import torch
from torch import Tensor, nn

from coldstart.data.batches import RankBatch
from coldstart.rankers.age import Recency


class Taste(nn.Module):
    """The recency-weighted sum of past items' keys, each signed by how much the click surpassed what was expected.

    The mean surprise is taken out, so that a user who clicks more than expected does not by that alone like every
    item; `L (2 d + 2)` multiplications per target.

    Args:
        width: `d`.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.key = nn.Linear(width, width, bias=False)
        nn.init.eye_(self.key.weight)
        self.recency = Recency(1, unseen=0.0)
        self.log_prior = nn.Parameter(torch.full((width,), 2.0))
        self.log_gain = nn.Parameter(torch.tensor(2.0))

    def forward(self, batch: RankBatch, history: Tensor, expected: Tensor, age: Tensor, shrink: Tensor) -> Tensor:
        """User vectors `[B, T, d]`.

        Args:
            batch: Says what was clicked.
            history: [B, L, d] slots of the past items.
            expected: [B, L] click logits that item and habit alone would have given.
            age: [B, T, L] of `age_buckets`.
            shrink: Scalar, events of prior evidence against the mean surprise.
        """
        (weight,) = self.recency(age, exponential=True)
        surprise = (batch.history_label - torch.sigmoid(expected)).unsqueeze(-1)
        keys = self.key(history)
        sums = weight @ torch.cat([torch.ones_like(surprise), surprise, keys, surprise * keys], dim=-1)
        total, surprises, seen, liked = sums.split([1, 1, keys.shape[-1], keys.shape[-1]], dim=-1)
        usual = surprises / (total + shrink)
        user: Tensor = (liked - usual * seen) / (total + self.log_prior.exp())
        return user * self.log_gain.exp()
