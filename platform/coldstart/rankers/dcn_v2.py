"""DCN-V2: crossing only (Wang et al. 2021, arXiv:2008.13535; the stacked form of its section 3).

The history enters pooled, as the user's taste vector, so the only work per pair of target and event is one weighted
sum: a pass costs `B T L 2 d` for that and `B T (2 d + f)^2` per crossing layer.

Legend: `B` rows, `T` targets, `L` history, `d` ID width, `f` feature width.
"""

import torch
from torch import Tensor

from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.data.batches import RankBatch
from coldstart.rankers.affinity import Affinity
from coldstart.rankers.age import age_buckets
from coldstart.rankers.crossing import Crossing
from coldstart.rankers.features import NO_FEATURES, FeatureEmbedding, FeatureSchema
from coldstart.rankers.interface import ReadingRanker
from coldstart.rankers.mlp import mlp


class DcnV2(ReadingRanker):
    """Crosses the slot with the user's taste, habit and the features.

    Args:
        vocabulary: `V`, items + 1.
        settings: The recipe's section.
        features: What the dataset knows of user, item and context beside the item itself.
    """

    def __init__(self, vocabulary: int, settings: RankerSettings, features: FeatureSchema = NO_FEATURES) -> None:
        super().__init__(vocabulary, settings, features)
        self.affinity = Affinity(settings.width)
        self.known = FeatureEmbedding(features, settings.width)
        crossed = 2 * settings.width + 2 + self.known.width
        self.crossing = Crossing(crossed, settings.cross_layers)
        self.mlp = mlp(crossed, settings.hidden, settings.dropout)

    def read(self, batch: RankBatch, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Appeal, taste and habit as logits `[B, T]`, and what the MLP reads of slots `[B, T, d]`."""
        age = age_buckets(batch.target_time, batch.history_time, batch.visible)
        logits, user, habit = self.affinity(batch, slots, self.id_slots(batch.history_idx), age)
        crossed = self.crossing(torch.cat([slots, user, habit, self.known(batch)], dim=-1))
        return logits, crossed
