"""What speaks for a click before any model of the sequence: the same part in every ranker here.

Legend: `B` rows, `T` targets, `L` history, `d` ID width.
"""

import torch
from torch import Tensor, nn

from coldstart.data.batches import RankBatch
from coldstart.rankers.habit import Habit
from coldstart.rankers.taste import Taste


class Affinity(nn.Module):
    """Appeal, taste and habit; a ranker adds to their sum what it learns beyond them.

    - *appeal*: a linear form of the slot, at first its column 0, where a first guess of the ID table has it.
    - *taste*: the inner product of the slot with a user vector, the recency-weighted sum of past items' keys, each
      signed by how much the click surpassed what the item's appeal and the user's habit made likely.
    - *habit*: the logit of the user's smoothed click rate.

    Args:
        width: `d`.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.appeal = nn.Linear(width, 1)
        with torch.no_grad():
            self.appeal.weight[0, 0] = 1.0
        self.habit = Habit()
        self.taste = Taste(width)

    def forward(self, batch: RankBatch, slots: Tensor, history: Tensor, age: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits `[B, T]`, user vectors `[B, T, d]` and habits `[B, T, 2]`.

        Args:
            batch: What was clicked and what is visible.
            slots: [B, T, d] of the targets.
            history: [B, L, d] slots of the past items.
            age: [B, T, L] of `age_buckets`.
        """
        habit = self.habit(batch)
        expected = self.habit.prior + self.appeal(history).squeeze(-1)
        user = self.taste(batch, history, expected, age, self.habit.log_events.exp())
        logits: Tensor = self.appeal(slots).squeeze(-1) + (slots * user).sum(-1) + habit[..., 0]
        return logits, user, habit
