"""The user's smoothed click-through rate, computed from the visible history.

Legend: `B` rows, `T` targets.
"""

import torch
from torch import Tensor, nn

from coldstart.data.batches import RankBatch


class SmoothedUserCTR(nn.Module):
    """Click rate of the visible history, smoothed towards a prior. The prior and its weight (in events) are learned."""

    def __init__(self) -> None:
        super().__init__()
        self.prior = nn.Parameter(torch.zeros(()))
        self.log_events = nn.Parameter(torch.tensor(2.0))

    def forward(self, batch: RankBatch) -> Tensor:
        """`[B, T, 2]`: logit of the smoothed rate, and `log(1 + n) / 4` of the number of visible events."""
        label = batch.history_label
        count, clicks = (batch.history_mask.float() @ torch.stack([torch.ones_like(label), label], -1)).unbind(-1)
        events = self.log_events.exp()
        rate = (clicks + events * torch.sigmoid(self.prior)) / (count + events)
        return torch.stack([torch.logit(rate), torch.log1p(count) / 4], dim=-1)
