"""DCN-V2: a cross network and an MLP (Wang et al. 2021, arXiv:2008.13535; the stacked form of its section 3).

The history is pooled into the user vector of `UserInterest`, so each pair of target and event costs only one weighted
sum: a forward pass costs `B T L 2 d` for the pairs and `B T (2 d + f)^2` per cross layer.

Legend: `B` rows, `T` targets, `L` history, `d` ID width, `f` feature width.
"""

import torch
from torch import Tensor

from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.data.batches import RankBatch
from coldstart.modules.cross_network import CrossNetwork
from coldstart.modules.mlp import mlp
from coldstart.modules.time_gap import time_gap_buckets
from coldstart.rankers.biased_mf import BiasedMF
from coldstart.rankers.feature_embedding import NO_FEATURES, FeatureEmbedding, FeatureSchema
from coldstart.rankers.interface import InteractionRanker


class DcnV2(InteractionRanker):
    """Crosses the slot with the user vector, the user's click rate and the features.

    Args:
        vocab_size: `V`, items + 1.
        settings: The recipe's section `ranker`.
        features: Features of user, item and context in the dataset.
    """

    def __init__(self, vocab_size: int, settings: RankerSettings, features: FeatureSchema = NO_FEATURES) -> None:
        super().__init__(vocab_size, settings, features)
        self.biased_mf = BiasedMF(settings.embedding_dim)
        self.feature_embedding = FeatureEmbedding(features, settings.embedding_dim)
        crossed = 2 * settings.embedding_dim + 2 + self.feature_embedding.width
        self.cross_network = CrossNetwork(crossed, settings.cross_layers)
        self.mlp = mlp(crossed, settings.mlp_units, settings.dropout)

    def interact(self, batch: RankBatch, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `[B, T]` of `BiasedMF`, and the input of the MLP, for slots `[B, T, d]`."""
        time_gap = time_gap_buckets(batch.target_time, batch.history_time, batch.history_mask)
        logits, user, user_ctr = self.biased_mf(batch, slots, self.id_slots(batch.history_idx), time_gap)
        crossed = self.cross_network(torch.cat([slots, user, user_ctr, self.feature_embedding(batch)], dim=-1))
        return logits, crossed
