"""The default ranker: target attention over the history, then a cross network and an MLP, on one item slot.

After DIN (Zhou et al. 2018, arXiv:1706.06978) and DCN-V2 (Wang et al. 2021, arXiv:2008.13535). A forward pass costs
`B T L (H + 3 d)` for the pairs of target and event and `B T (3 d + f)^2` per cross layer.

Legend: `B` rows, `T` targets, `L` history, `H` heads, `d` ID width, `f` feature width, `V` vocabulary (items + 1; row 0
is OOV).
"""

import torch
from torch import Tensor

from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.data.batches import RankBatch
from coldstart.modules.cross_network import CrossNetwork
from coldstart.modules.history_attention import HistoryAttention
from coldstart.modules.mlp import mlp
from coldstart.modules.time_gap import time_gap_buckets
from coldstart.rankers.biased_mf import BiasedMF
from coldstart.rankers.feature_embedding import NO_FEATURES, FeatureEmbedding, FeatureSchema
from coldstart.rankers.interface import InteractionRanker


class DinDcn(InteractionRanker):
    """Crosses the slot, its attention over the history, its match with the user vector, the user's CTR and features.

    Args:
        vocab_size: `V`, items + 1.
        settings: The recipe's section `ranker`.
        features: Features of user, item and context in the dataset.
    """

    def __init__(self, vocab_size: int, settings: RankerSettings, features: FeatureSchema = NO_FEATURES) -> None:
        super().__init__(vocab_size, settings, features)
        width = settings.embedding_dim
        self.biased_mf = BiasedMF(width)
        self.history_attention = HistoryAttention(width, settings.num_heads)
        self.feature_embedding = FeatureEmbedding(features, width)
        crossed = 3 * width + 2 + self.feature_embedding.width
        self.cross_network = CrossNetwork(crossed, settings.cross_layers)
        self.mlp = mlp(crossed, settings.mlp_units, settings.dropout)

    def interact(self, batch: RankBatch, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `[B, T]` of `BiasedMF`, and the input of the MLP, for slots `[B, T, d]`."""
        history = self.id_slots(batch.history_idx)
        time_gap = time_gap_buckets(batch.target_time, batch.history_time, batch.history_mask)
        logits, user, user_ctr = self.biased_mf(batch, slots, history, time_gap)
        interest = self.history_attention(slots, history, batch.history_label, time_gap)
        crossed = self.cross_network(
            torch.cat([slots, interest, slots * user, user_ctr, self.feature_embedding(batch)], dim=-1)
        )
        return logits, crossed
