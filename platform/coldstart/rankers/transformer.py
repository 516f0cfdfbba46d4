"""A transformer over the history: BST (Chen et al. 2019, arXiv:1905.06874), made causal by time so that rows share it.

An event layer lets every event look back at strictly earlier ones; a target layer lets every target look back at the
events so read. In the paper the target is one more token of the sequence; here it only looks, so that one pass scores
all targets of a row and none of them changes another's score. Positions are ages, as relative biases.

An event looks back at a fixed number of neighbours, whatever row it stands in, and a target looks directly at so many
fewer that both together reach back `ranker.history` events: a score is the same in any window of the history. A pass
costs `B (T L + L^2 / 2) d` for the pairs at most and `B (T + L) 12 d^2` for the layers.

Legend: `B` rows, `T` targets, `L` history, `n` blocks, `w` block size, `d` ID width, `f` feature width.
"""

import torch
from torch import Tensor, nn

from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.data.batches import RankBatch
from coldstart.rankers.affinity import Affinity
from coldstart.rankers.age import UNSEEN, age_buckets
from coldstart.rankers.attention import PastAttention
from coldstart.rankers.features import NO_FEATURES, FeatureEmbedding, FeatureSchema
from coldstart.rankers.interface import ReadingRanker
from coldstart.rankers.mlp import mlp

NEVER = 2**62
"""A time that is before nothing."""


class Transformer(ReadingRanker):
    """Two layers, of events and of targets, and an MLP over slot, what was found, taste, habit and features.

    Args:
        vocabulary: `V`, items + 1.
        settings: The recipe's section.
        features: What the dataset knows of user, item and context beside the item itself.
    """

    def __init__(self, vocabulary: int, settings: RankerSettings, features: FeatureSchema = NO_FEATURES) -> None:
        super().__init__(vocabulary, settings, features)
        width = settings.width
        self.reach = settings.history // 4
        self.affinity = Affinity(width)
        self.events = _Layer(width, settings.heads, settings.dropout)
        self.targets = _Layer(width, settings.heads, settings.dropout)
        self.known = FeatureEmbedding(features, width)
        self.mlp = mlp(4 * width + 2 + self.known.width, settings.hidden, settings.dropout)

    def read(self, batch: RankBatch, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Appeal, taste and habit as logits `[B, T]`, and what the MLP reads of slots `[B, T, d]`."""
        history = self.id_slots(batch.history_idx)
        age = age_buckets(batch.target_time, batch.history_time, batch.visible)
        logits, user, habit = self.affinity(batch, slots, history, age)
        events = self._read(history, batch.history_label, batch.history_time)
        near = age.masked_fill(~self._within_reach(batch.visible), UNSEEN)
        interest = self.targets(slots, events, batch.history_label, near)
        read = torch.cat([slots, interest, slots * interest, slots * user, habit, self.known(batch)], dim=-1)
        return logits, read

    def _within_reach(self, visible: Tensor) -> Tensor:
        """`[B, T, L]`: which events are near enough to the target that what they have seen is in its history too."""
        place = torch.arange(visible.shape[2], dtype=torch.int32, device=visible.device)
        last = torch.where(visible, place, -1).amax(-1, keepdim=True)
        return place > last - (self.history - self.reach)

    def _read(self, events: Tensor, label: Tensor, time: Tensor) -> Tensor:
        """Events `[B, L, d]` that have looked back at the `reach` events before them, as far as strictly earlier.

        Done in blocks that see themselves and the block before, so that the work does not grow with `L^2`.
        """
        size = max(self.reach, 1)
        own, own_time = _blocks(events, size), _blocks(time, size)
        seen_time = _with_previous(own_time, NEVER)
        back = torch.arange(size, device=time.device).unsqueeze(1) + size - torch.arange(2 * size, device=time.device)
        seen = (seen_time.unsqueeze(-2) < own_time.unsqueeze(-1)) & (back > 0) & (back <= self.reach)
        read: Tensor = self.events(
            own.flatten(0, 1),
            _with_previous(own, 0).flatten(0, 1),
            _with_previous(_blocks(label, size), 0).flatten(0, 1),
            age_buckets(own_time.flatten(0, 1), seen_time.flatten(0, 1), seen.flatten(0, 1)),
        )
        return read.reshape(len(events), -1, events.shape[2])[:, : events.shape[1]]


class _Layer(nn.Module):
    """A transformer layer, normalised before each part, of those who look back (`looking`) at events."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.looking_norm, self.seen_norm, self.found_norm = (nn.LayerNorm(width) for _ in range(3))
        self.attention = PastAttention(width, heads)
        self.forward_part = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, looking: Tensor, events: Tensor, label: Tensor, age: Tensor) -> Tensor:
        found = self.attention(self.looking_norm(looking), self.seen_norm(events), label, age)
        read = looking + self.dropout(found)
        out: Tensor = read + self.dropout(self.forward_part(self.found_norm(read)))
        return out


def _blocks(values: Tensor, size: int) -> Tensor:
    """`[B, L, ...]` to `[B, n, w, ...]`, filled up with zeros at the end."""
    missing = -values.shape[1] % size
    padded = torch.cat([values, values.new_zeros((len(values), missing, *values.shape[2:]))], dim=1)
    return padded.reshape(len(values), -1, size, *values.shape[2:])


def _with_previous(blocks: Tensor, fill: int) -> Tensor:
    """`[B, n, w, ...]` to `[B, n, 2 w, ...]`: every block behind the one before it, the first behind `fill`."""
    before = torch.cat([torch.full_like(blocks[:, :1], fill), blocks[:, :-1]], dim=1)
    return torch.cat([before, blocks], dim=2)
