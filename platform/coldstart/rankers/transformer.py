"""A transformer over the history: BST (Chen et al. 2019, arXiv:1905.06874) with a causal mask by time.

In the event layer every event attends to strictly earlier events; in the target layer every target attends to the
output of the event layer. In the paper the target is one more token of the sequence. Here it is only a query, so one
pass scores all targets of a row and no target changes another's score. Positions are time gaps, as relative biases.

An event attends to a fixed number of events before it, and a target attends directly to so many fewer that both layers
together reach back `ranker.max_history` events. So a score is the same in any window of the history. A forward pass
costs at most `B (T L + L^2 / 2) d` for the pairs and `B (T + L) 12 d^2` for the layers.

Legend: `B` rows, `T` targets, `L` history, `n` blocks, `w` block size, `d` ID width, `f` feature width.
"""

import torch
from torch import Tensor, nn

from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.data.batches import RankBatch
from coldstart.modules.history_attention import HistoryAttention
from coldstart.modules.mlp import mlp
from coldstart.modules.time_gap import MASKED, time_gap_buckets
from coldstart.rankers.biased_mf import BiasedMF
from coldstart.rankers.feature_embedding import NO_FEATURES, FeatureEmbedding, FeatureSchema
from coldstart.rankers.interface import InteractionRanker

NEVER = 2**62
"""A time that is later than that of every event."""


class Transformer(InteractionRanker):
    """An event layer, a target layer, and an MLP over slot, attention output, user vector, user CTR and features.

    Args:
        vocab_size: `V`, items + 1.
        settings: The recipe's section `ranker`.
        features: Features of user, item and context in the dataset.
    """

    def __init__(self, vocab_size: int, settings: RankerSettings, features: FeatureSchema = NO_FEATURES) -> None:
        super().__init__(vocab_size, settings, features)
        width = settings.embedding_dim
        self.local_window = settings.max_history // 4
        self.biased_mf = BiasedMF(width)
        self.event_layer = _Layer(width, settings.num_heads, settings.dropout)
        self.target_layer = _Layer(width, settings.num_heads, settings.dropout)
        self.feature_embedding = FeatureEmbedding(features, width)
        self.mlp = mlp(4 * width + 2 + self.feature_embedding.width, settings.mlp_units, settings.dropout)

    def interact(self, batch: RankBatch, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `[B, T]` of `BiasedMF`, and the input of the MLP, for slots `[B, T, d]`."""
        history = self.id_slots(batch.history_idx)
        time_gap = time_gap_buckets(batch.target_time, batch.history_time, batch.history_mask)
        logits, user, user_ctr = self.biased_mf(batch, slots, history, time_gap)
        events = self._encode_events(history, batch.history_label, batch.history_time)
        near = time_gap.masked_fill(~self._in_direct_window(batch.history_mask), MASKED)
        interest = self.target_layer(slots, events, batch.history_label, near)
        features = self.feature_embedding(batch)
        return logits, torch.cat([slots, interest, slots * interest, slots * user, user_ctr, features], dim=-1)

    def _in_direct_window(self, history_mask: Tensor) -> Tensor:
        """`[B, T, L]`: events so recent that everything they attend to is in the target's history too."""
        position = torch.arange(history_mask.shape[2], dtype=torch.int32, device=history_mask.device)
        last = torch.where(history_mask, position, -1).amax(-1, keepdim=True)
        return position > last - (self.max_history - self.local_window)

    def _encode_events(self, events: Tensor, label: Tensor, time: Tensor) -> Tensor:
        """Events `[B, L, d]` after attention to the `local_window` events before them, as far as strictly earlier.

        Each block of events attends to itself and to the block before it, so the work does not grow with `L^2`.
        """
        size = max(self.local_window, 1)
        own, own_time = _blocks(events, size), _blocks(time, size)
        key_time = _with_previous(own_time, NEVER)
        back = torch.arange(size, device=time.device).unsqueeze(1) + size - torch.arange(2 * size, device=time.device)
        mask = (key_time.unsqueeze(-2) < own_time.unsqueeze(-1)) & (back > 0) & (back <= self.local_window)
        encoded: Tensor = self.event_layer(
            own.flatten(0, 1),
            _with_previous(own, 0).flatten(0, 1),
            _with_previous(_blocks(label, size), 0).flatten(0, 1),
            time_gap_buckets(own_time.flatten(0, 1), key_time.flatten(0, 1), mask.flatten(0, 1)),
        )
        return encoded.reshape(len(events), -1, events.shape[2])[:, : events.shape[1]]


class _Layer(nn.Module):
    """A pre-norm transformer layer of queries `[B, S, d]` over events `[B, L, d]`."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.query_norm, self.event_norm, self.mlp_norm = (nn.LayerNorm(width) for _ in range(3))
        self.attention = HistoryAttention(width, num_heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, query: Tensor, events: Tensor, label: Tensor, time_gap: Tensor) -> Tensor:
        attended = query + self.dropout(
            self.attention(self.query_norm(query), self.event_norm(events), label, time_gap)
        )
        out: Tensor = attended + self.dropout(self.mlp(self.mlp_norm(attended)))
        return out


def _blocks(values: Tensor, size: int) -> Tensor:
    """`[B, L, ...]` to `[B, n, w, ...]`, zero-padded at the end."""
    missing = -values.shape[1] % size
    padded = torch.cat([values, values.new_zeros((len(values), missing, *values.shape[2:]))], dim=1)
    return padded.reshape(len(values), -1, size, *values.shape[2:])


def _with_previous(blocks: Tensor, fill: int) -> Tensor:
    """`[B, n, w, ...]` to `[B, n, 2 w, ...]`: each block with the previous one in front, `fill` for the first."""
    before = torch.cat([torch.full_like(blocks[:, :1], fill), blocks[:, :-1]], dim=1)
    return torch.cat([before, blocks], dim=2)
