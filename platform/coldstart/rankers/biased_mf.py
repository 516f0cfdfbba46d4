"""Biased matrix factorization: the first term of the logit in every built-in ranker.

Legend: `B` rows, `T` targets, `L` history, `d` ID width.
"""

import torch
from torch import Tensor, nn

from coldstart.data.batches import RankBatch
from coldstart.rankers.user_ctr import SmoothedUserCTR
from coldstart.rankers.user_interest import UserInterest


class BiasedMF(nn.Module):
    """Sum of item bias, user-item match and user bias; the rest of a ranker learns a correction of this sum.

    - *item bias* (the item effect): a linear function of the slot. It starts as column 0 of the slot, where
      `svd_item_init` puts its estimate.
    - *user-item match* (personalization): inner product of the slot and the user vector of `UserInterest`.
    - *user bias*: logit of the user's smoothed click rate.

    Args:
        width: `d`.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.item_bias = nn.Linear(width, 1)
        with torch.no_grad():
            self.item_bias.weight[0, 0] = 1.0
        self.user_ctr = SmoothedUserCTR()
        self.user_interest = UserInterest(width)

    def forward(
        self, batch: RankBatch, slots: Tensor, history: Tensor, time_gap: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits `[B, T]`, user vectors `[B, T, d]` and the output `[B, T, 2]` of `SmoothedUserCTR`.

        Args:
            batch: Labels and mask of the history.
            slots: [B, T, d] of the targets.
            history: [B, L, d] slots of the past items.
            time_gap: [B, T, L] from `time_gap_buckets`.
        """
        user_ctr = self.user_ctr(batch)
        expected = self.user_ctr.prior + self.item_bias(history).squeeze(-1)
        user = self.user_interest(batch, history, expected, time_gap, self.user_ctr.log_events.exp())
        logits: Tensor = self.item_bias(slots).squeeze(-1) + (slots * user).sum(-1) + user_ctr[..., 0]
        return logits, user, user_ctr
