"""Multi-head attention over past events.

Legend: `B` rows, `S` those who look back (targets or later events), `L` history, `H` heads, `d` ID width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coldstart.rankers.age import Recency


class PastAttention(nn.Module):
    """Attention whose scores know the age of an event, and whose keys and values know whether it was clicked.

    A key that is always seen takes the weight of an empty or irrelevant past. Time and memory grow with `S L H`.

    Args:
        width: `d`.
        heads: `H`; divides `d`.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.label = nn.Embedding(2, 2 * width)
        self.recency = Recency(heads, unseen=float("-inf"))
        self.nothing = nn.Parameter(torch.zeros(heads, 1, width // heads))
        nn.init.normal_(self.label.weight, std=0.1)

    def forward(self, looking: Tensor, events: Tensor, label: Tensor, age: Tensor) -> Tensor:
        """What is found, `[B, S, d]`.

        Args:
            looking: [B, S, d] those who look back.
            events: [B, L, d] what there is to see.
            label: [B, L] clicked (1) or not (0).
            age: [B, S, L] of `age_buckets`.
        """
        query, key, value, bias = self._asked(looking, events, label, age)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return out.transpose(1, 2).flatten(2)

    def weights(self, looking: Tensor, events: Tensor, label: Tensor, age: Tensor) -> Tensor:
        """How much each of those who look back takes from what: `[B, H, S, 1 + L]`, first from the key of no event.

        Arguments as `forward`. Holds all pairs at once: for looking into a model, not for running it.
        """
        query, key, _, bias = self._asked(looking, events, label, age)
        return torch.softmax(query @ key.mT / query.shape[-1] ** 0.5 + bias, dim=-1)

    def _asked(
        self, looking: Tensor, events: Tensor, label: Tensor, age: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries, keys and values `[B, H, ., d / H]`, and the bias `[B, H, S, 1 + L]` of their scores."""
        key_label, value_label = self.label(label.long()).chunk(2, dim=-1)
        query = self._split(self.query(looking))
        key = self._split(self.key(events) + key_label)
        value = self._split(self.value(events) + value_label)
        key = torch.cat([self.nothing.expand(len(key), -1, -1, -1), key], dim=2)
        value = F.pad(value, (0, 0, 1, 0))
        bias = F.pad(self.recency(age).transpose(0, 1), (1, 0)).to(query.dtype)
        return query, key, value, bias

    def _split(self, vectors: Tensor) -> Tensor:
        """`[B, S, d]` to `[B, H, S, d / H]`."""
        return vectors.reshape(*vectors.shape[:2], self.heads, -1).transpose(1, 2)
