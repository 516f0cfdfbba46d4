"""Multi-head attention over past events.

Legend: `B` rows, `S` queries (targets or later events), `L` history, `H` heads, `d` ID width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coldstart.modules.time_gap import TimeGapBias


class HistoryAttention(nn.Module):
    """Attention over past events with a bias per time gap, and keys and values that depend on the click label.

    A null key that is never masked takes the weight when the history is empty or irrelevant. Time and memory grow
    with `S L H`.

    Args:
        width: `d`.
        num_heads: `H`; divides `d`.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_proj = nn.Linear(width, width)
        self.key_proj = nn.Linear(width, width)
        self.value_proj = nn.Linear(width, width)
        self.label_embedding = nn.Embedding(2, 2 * width)
        self.time_gap_bias = TimeGapBias(num_heads, masked_value=float("-inf"))
        self.null_key = nn.Parameter(torch.zeros(num_heads, 1, width // num_heads))
        nn.init.normal_(self.label_embedding.weight, std=0.1)

    def forward(self, query: Tensor, events: Tensor, label: Tensor, time_gap: Tensor) -> Tensor:
        """Attention output `[B, S, d]`.

        Args:
            query: [B, S, d] targets or later events.
            events: [B, L, d] past events.
            label: [B, L] clicked (1) or not (0).
            time_gap: [B, S, L] from `time_gap_buckets`.
        """
        query, key, value, bias = self._project(query, events, label, time_gap)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return out.transpose(1, 2).flatten(2)

    def weights(self, query: Tensor, events: Tensor, label: Tensor, time_gap: Tensor) -> Tensor:
        """Attention weights `[B, H, S, 1 + L]`; the first is that of the null key.

        Arguments as for `forward`. Holds all pairs in memory at once, so use it for diagnostics only.
        """
        query, key, _, bias = self._project(query, events, label, time_gap)
        return torch.softmax(query @ key.mT / query.shape[-1] ** 0.5 + bias, dim=-1)

    def _project(
        self, query: Tensor, events: Tensor, label: Tensor, time_gap: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries, keys and values `[B, H, ., d / H]`, and the bias `[B, H, S, 1 + L]` of their scores."""
        key_label, value_label = self.label_embedding(label.long()).chunk(2, dim=-1)
        query = self._split(self.query_proj(query))
        key = self._split(self.key_proj(events) + key_label)
        value = self._split(self.value_proj(events) + value_label)
        key = torch.cat([self.null_key.expand(len(key), -1, -1, -1), key], dim=2)
        value = F.pad(value, (0, 0, 1, 0))
        bias = F.pad(self.time_gap_bias(time_gap).transpose(0, 1), (1, 0)).to(query.dtype)
        return query, key, value, bias

    def _split(self, vectors: Tensor) -> Tensor:
        """`[B, S, d]` to `[B, H, S, d / H]`."""
        return vectors.reshape(*vectors.shape[:2], self.num_heads, -1).transpose(1, 2)
