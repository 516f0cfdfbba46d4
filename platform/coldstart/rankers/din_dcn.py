"""The default ranker: target attention over the history, a taste term, crossing and an MLP on one item slot.

After DIN (Zhou et al. 2018, arXiv:1706.06978) and DCN-V2 (Wang et al. 2021, arXiv:2008.13535). A pass costs
`B T L (H + 3 d)` for the pairs of target and event and `B T (3 d + f)^2` per crossing layer.

Legend: `B` rows, `T` targets, `L` history, `H` heads, `d` ID width, `f` feature width, `V` vocabulary (items + 1; row 0
is OOV).
"""

import torch
from torch import Tensor, nn

from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.data.batches import RankBatch
from coldstart.rankers.age import age_buckets
from coldstart.rankers.attention import PastAttention
from coldstart.rankers.crossing import Crossing
from coldstart.rankers.features import NO_FEATURES, FeatureEmbedding, FeatureSchema
from coldstart.rankers.habit import Habit
from coldstart.rankers.interface import Ranker
from coldstart.rankers.mlp import mlp
from coldstart.rankers.taste import Taste


class DinDcn(Ranker):
    """Click model that knows an item only by its slot and features, and a user only by those and the visible history.

    Three readings of slot and history meet in the logit:

    - *appeal*: a linear form of the slot.
    - *taste*: the inner product of the slot with a user vector, the recency-weighted sum of past items' keys, each
      signed by how much the click surpassed what the item's appeal and the user's habit made likely.
    - *crossing*: target attention over the history (DIN), the slot, the slot times the user vector, the user's click
      rate and the features, crossed by DCN-V2 and an MLP.

    Args:
        vocabulary: `V`, items + 1.
        settings: The recipe's section.
        features: What the dataset knows of user, item and context beside the item itself.
    """

    def __init__(self, vocabulary: int, settings: RankerSettings, features: FeatureSchema = NO_FEATURES) -> None:
        super().__init__(vocabulary, settings, features)
        width = settings.width
        self.appeal = nn.Linear(width, 1)
        self.habit = Habit()
        self.taste = Taste(width)
        self.attention = PastAttention(width, settings.heads)
        self.known = FeatureEmbedding(features, width)
        crossed = 3 * width + 2 + self.known.width
        self.crossing = Crossing(crossed, settings.cross_layers)
        self.mlp = mlp(crossed, settings.hidden, settings.dropout)

    @torch.no_grad()
    def start_from(self, rows: Tensor) -> None:
        """Puts a first guess of appeal (column 0) and tastes `[V, d]` into the ID table."""
        super().start_from(rows)
        self.appeal.weight[0, 0] = 1.0

    def forward(self, batch: RankBatch, slots: Tensor) -> Tensor:
        """Click logits `[B, T]` with `slots` `[B, T, d]` standing where the targets' ID embeddings stand."""
        history = self.id_slots(batch.history_idx)
        age = age_buckets(batch.target_time, batch.history_time, batch.visible)
        habit = self.habit(batch)
        expected = self.habit.prior + self.appeal(history).squeeze(-1)
        user = self.taste(batch, history, expected, age, self.habit.log_events.exp())
        interest = self.attention(slots, history, batch.history_label, age)
        match = slots * user
        crossed = self.crossing(torch.cat([slots, interest, match, habit, self.known(batch)], dim=-1))
        deep: Tensor = self.mlp(crossed).squeeze(-1)
        appeal: Tensor = self.appeal(slots).squeeze(-1)
        logits: Tensor = appeal + match.sum(-1) + habit[..., 0] + deep
        return logits
