"""SimTier: how often a target's similarity to the history lies in each of some fixed bins (arXiv 2407.19467).

From articles that re-describe it (tag T): count cosines per bin, feed `log1p(counts)` to the network.

Legend: `B` rows, `T` targets, `L` history.
"""

import torch
from torch import Tensor

BINS = 20


def similarity_histogram(similarity: Tensor, mask: Tensor, *, bins: int = BINS) -> Tensor:
    """Counts `[B, T, bins]` of cosines `[B, T, L]` where `mask` `[B, T, L]` is true; bins divide -1 to 1 evenly.

    Cosines that rounding puts beyond -1 or 1 count in the outer bins.
    """
    places = ((similarity + 1) * (bins / 2)).floor().clamp(0, bins - 1).long()
    counts = similarity.new_zeros(*similarity.shape[:-1], bins)
    return counts.scatter_add_(-1, places, mask.to(counts.dtype))


def similarity_tiers(similarity: Tensor, mask: Tensor, *, bins: int = BINS) -> Tensor:
    """`log1p` of `similarity_histogram`: the features `[B, T, bins]` that a network reads."""
    return torch.log1p(similarity_histogram(similarity, mask, bins=bins))
