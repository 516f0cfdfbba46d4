"""The interest units of CiUBM (MIM, section 3.4): what of the history is like the target, by content.

Figure 2c **[P]**: content-interest reads the multimodal sequence and the cosines, fusion-interest also the ID sequence;
the target's ID enters only the ID-interest unit. The forms of weights and values were not found **[I]**.

Legend: `B` rows, `T` targets, `L` history, `d` ID width, `k` content width.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from coldstart.modules.similarity_histogram import similarity_tiers

TEMPERATURE = 0.1
"""Initial temperature of the similarity weights; it is learned."""
BUCKETS = 35
"""Similarity buckets of DTA (DMF, its code)."""


@dataclass(frozen=True)
class History:
    """Target and history as the units read them.

    Attributes:
        target_id: `[B, T, d]` ID embeddings of the targets.
        ids: `[B, L, d]` ID embeddings of the history.
        content: `[B, L, k]` content of the history, unit norm or zeros.
        similarity: `[B, T, L]` cosines of targets and history.
        clicked: `[B, T, L]` bool, clicked events with content that a target with content may see.
        skipped: `[B, T, L]` bool, the same of skipped events.
    """

    target_id: Tensor
    ids: Tensor
    content: Tensor
    similarity: Tensor
    clicked: Tensor
    skipped: Tensor


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Weights over the last axis where `mask` is true; all zeros where it is nowhere true."""
    lowest = torch.finfo(scores.dtype).min
    return torch.softmax(scores.masked_fill(~mask, lowest), dim=-1) * mask


class SimilarityWeights(nn.Module):
    """`softmax(s / tau)` over the clicked events, with a learned `tau` **[I]**."""

    def __init__(self) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.tensor(math.log(TEMPERATURE)))

    def forward(self, history: History) -> Tensor:
        """Weights `[B, T, L]`; they do not depend on the order of the history."""
        return masked_softmax(history.similarity / self.log_temperature.exp(), history.clicked)


class ContentInterest(nn.Module):
    """`[sum_j w_j m_j ; log1p(histogram(s))]`; the histogram counts clicked and skipped events apart (the latter ours).

    Args:
        width: `k`.
        histogram: Whether the histogram is part of the output.
    """

    def __init__(self, width: int, *, histogram: bool) -> None:
        super().__init__()
        self.weights = SimilarityWeights()
        self.histogram = histogram
        self.width = width

    def forward(self, history: History) -> tuple[Tensor, Tensor]:
        """The content that the user likes, `[B, T, k]`, and tiers `[B, T, 40]` (`[B, T, 0]` without histogram)."""
        interest = self.weights(history) @ history.content
        if not self.histogram:
            return interest, interest[..., :0]
        events = (history.clicked, history.skipped)
        return interest, torch.cat([similarity_tiers(history.similarity, mask) for mask in events], dim=-1)


class FusionInterest(nn.Module, ABC):
    """Similarities of content decide which IDs of the history are read.

    Args:
        id_width: `d`, also the width of the output.
        width: `k`.
    """

    @abstractmethod
    def __init__(self, id_width: int, width: int) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, history: History) -> Tensor:
        """Fused interest `[B, T, d]`."""


class FigureFusion(FusionInterest):
    """`sum_j w_j W [e_j ; m_j]`: the unit as the figure draws it, which does not read the target's ID."""

    def __init__(self, id_width: int, width: int) -> None:
        super().__init__(id_width, width)
        self.weights = SimilarityWeights()
        self.values = nn.Linear(id_width + width, id_width, bias=False)

    def forward(self, history: History) -> Tensor:
        """Fused interest `[B, T, d]`."""
        # The map is linear, so it is applied once to the sum instead of to every event.
        events = torch.cat([history.ids, history.content], dim=-1)
        fused: Tensor = self.values(self.weights(history) @ events)
        return fused


class SaTaFusion(FusionInterest):
    """SA-TA (MUSE, arXiv 2512.07216) **[N]**: `alpha = g1 alpha_ID + g2 s + g3 alpha_ID s`, values are ID embeddings.

    It reads the target's ID, in which it departs from MIM's figure.
    """

    def __init__(self, id_width: int, width: int) -> None:
        super().__init__(id_width, width)
        self.gains = nn.Parameter(torch.tensor([1.0, 0.1, 1.0]))

    def forward(self, history: History) -> Tensor:
        """Fused interest `[B, T, d]`."""
        scores = history.target_id @ history.ids.mT / math.sqrt(history.ids.shape[-1])
        by_id, similarity = masked_softmax(scores, history.clicked), history.similarity * history.clicked
        weights = self.gains[0] * by_id + self.gains[1] * similarity + self.gains[2] * by_id * similarity
        return weights @ history.ids


class DtaFusion(FusionInterest):
    """DTA (DMF) **[C]**: `key = W_k e_j + E_k[bucket(s_j)]`, `value = W_v e_j + E_v[bucket(s_j)]`, query `W_q e_t`.

    It reads the target's ID, in which it departs from MIM's figure.
    """

    def __init__(self, id_width: int, width: int) -> None:
        super().__init__(id_width, width)
        self.query, self.key, self.value = (nn.Linear(id_width, id_width, bias=False) for _ in range(3))
        self.bucket_key, self.bucket_value = (nn.Embedding(BUCKETS, id_width) for _ in range(2))
        for table in (self.bucket_key, self.bucket_value):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, history: History) -> Tensor:
        """Fused interest `[B, T, d]`."""
        # Keys and values are sums of a part per event and a part per bucket, so no tensor has all pairs times `d`.
        bucket = ((history.similarity + 1) * (BUCKETS / 2)).floor().clamp(0, BUCKETS - 1).long()
        query = self.query(history.target_id)
        by_bucket = (query @ self.bucket_key.weight.T).gather(-1, bucket)
        scores = (query @ self.key(history.ids).mT + by_bucket) / math.sqrt(query.shape[-1])
        weights = masked_softmax(scores, history.clicked)
        of_buckets = weights.new_zeros(*weights.shape[:-1], BUCKETS).scatter_add(-1, bucket, weights)
        fused: Tensor = weights @ self.value(history.ids) + of_buckets @ self.bucket_value.weight
        return fused


FUSIONS: dict[str, type[FusionInterest]] = {"figure": FigureFusion, "sa_ta": SaTaFusion, "dta": DtaFusion}
