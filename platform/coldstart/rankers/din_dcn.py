"""The default ranker: target attention over the history, then crossing and an MLP, on one item slot.

After DIN (Zhou et al. 2018, arXiv:1706.06978) and DCN-V2 (Wang et al. 2021, arXiv:2008.13535). A pass costs
`B T L (H + 3 d)` for the pairs of target and event and `B T (3 d + f)^2` per crossing layer.

Legend: `B` rows, `T` targets, `L` history, `H` heads, `d` ID width, `f` feature width, `V` vocabulary (items + 1; row 0
is OOV).
"""

import torch
from torch import Tensor

from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.data.batches import RankBatch
from coldstart.rankers.affinity import Affinity
from coldstart.rankers.age import age_buckets
from coldstart.rankers.attention import PastAttention
from coldstart.rankers.crossing import Crossing
from coldstart.rankers.features import NO_FEATURES, FeatureEmbedding, FeatureSchema
from coldstart.rankers.interface import ReadingRanker
from coldstart.rankers.mlp import mlp


class DinDcn(ReadingRanker):
    """Crosses the slot, what it attends to in the history, its match with the user's taste, habit and features.

    Args:
        vocabulary: `V`, items + 1.
        settings: The recipe's section.
        features: What the dataset knows of user, item and context beside the item itself.
    """

    def __init__(self, vocabulary: int, settings: RankerSettings, features: FeatureSchema = NO_FEATURES) -> None:
        super().__init__(vocabulary, settings, features)
        width = settings.width
        self.affinity = Affinity(width)
        self.attention = PastAttention(width, settings.heads)
        self.known = FeatureEmbedding(features, width)
        crossed = 3 * width + 2 + self.known.width
        self.crossing = Crossing(crossed, settings.cross_layers)
        self.mlp = mlp(crossed, settings.hidden, settings.dropout)

    def read(self, batch: RankBatch, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Appeal, taste and habit as logits `[B, T]`, and what the MLP reads of slots `[B, T, d]`."""
        history = self.id_slots(batch.history_idx)
        age = age_buckets(batch.target_time, batch.history_time, batch.visible)
        logits, user, habit = self.affinity(batch, slots, history, age)
        interest = self.attention(slots, history, batch.history_label, age)
        crossed = self.crossing(torch.cat([slots, interest, slots * user, habit, self.known(batch)], dim=-1))
        return logits, crossed
