"""DCN-V2: crossing only (Wang et al. 2021, "DCN V2", arXiv:2008.13535; the stacked form of its section 3).

The history enters as two pooled vectors, so there is no work per pair of target and event but one weighted sum: a pass
costs `B T L d` for that and `B T (3 d + f)^2` per crossing layer.

Legend: `B` rows, `T` targets, `L` history, `d` ID width, `f` feature width.
"""

import torch
from torch import Tensor, nn

from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.data.batches import RankBatch
from coldstart.rankers.crossing import Crossing
from coldstart.rankers.features import NO_FEATURES, FeatureEmbedding, FeatureSchema
from coldstart.rankers.habit import Habit
from coldstart.rankers.interface import Ranker
from coldstart.rankers.mlp import mlp


class DcnV2(Ranker):
    """Crosses the slot with the mean clicked item, the mean passed-over item, the user's habit and the features.

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
        self.known = FeatureEmbedding(features, width)
        self.log_prior = nn.Parameter(torch.zeros(2))
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
        habit = self.habit(batch)
        liked, passed = self._pooled(batch)
        start = torch.cat([slots, liked, passed, habit, self.known(batch)], dim=-1)
        deep: Tensor = self.mlp(self.crossing(start)).squeeze(-1)
        appeal: Tensor = self.appeal(slots).squeeze(-1)
        logits: Tensor = appeal + habit[..., 0] + deep
        return logits

    def _pooled(self, batch: RankBatch) -> tuple[Tensor, Tensor]:
        """Means `[B, T, d]` of the clicked and of the passed-over items; short pasts are shrunk towards zero."""
        history = self.id_slots(batch.history_idx)
        clicked = batch.history_label.unsqueeze(-1)
        kinds = torch.cat([clicked, 1 - clicked], dim=-1)
        events = (history.unsqueeze(-2) * kinds.unsqueeze(-1)).flatten(2)
        sums, counts = (batch.visible.float() @ torch.cat([events, kinds], dim=-1)).split([events.shape[-1], 2], dim=-1)
        means = sums.unflatten(-1, (2, -1)) / (counts + self.log_prior.exp()).unsqueeze(-1)
        liked, passed = means.unbind(-2)
        return liked, passed
