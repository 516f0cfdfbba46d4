"""Quality of semantic IDs.

Legend: `n` items, `Lq` levels, `K` codes of a level.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.integer[Any]]


def code_report(codes: Codes, sizes: Sequence[int]) -> dict[str, Any]:
    """How evenly codes are used, and how many items share a semantic ID.

    Args:
        codes: [n, Lq] from 0; n > 0.
        sizes: `K` of each level.

    Returns:
        Per level `perplexity` (the exponential of the entropy; `K` if all codes are equally frequent) and
        `utilization` (share of codes that an item has). `unique_ids`: semantic IDs per item, 1 without collisions.
        `largest_bucket`: most items with one ID.
    """
    perplexity, utilization = [], []
    for level, size in enumerate(sizes):
        share = np.bincount(codes[:, level], minlength=size) / len(codes)
        used = share[share > 0]
        perplexity.append(round(float(np.exp(-(used * np.log(used)).sum())), 3))
        utilization.append(round(len(used) / size, 5))
    buckets = np.bincount(_prefixes(codes)[-1])
    return {
        "perplexity": perplexity,
        "utilization": utilization,
        "unique_ids": round(len(buckets) / len(codes), 5),
        "largest_bucket": int(buckets.max()),
    }


def code_purity(codes: Codes, category: npt.NDArray[np.integer[Any]]) -> list[float]:
    """Share of items in the most frequent category of their code, per level of prefixes; of the whole set first.

    The first number is what one code for all items has. Longer prefixes have fewer items, so their purity grows by
    chance, too; compare quantizers at the same level.

    Args:
        codes: [n, Lq] from 0; n > 0.
        category: [n].

    Returns:
        `Lq + 1` numbers: without codes, by the first code, by the first two, and so on.
    """
    distinct, category = np.unique(category, return_inverse=True)
    found = []
    for prefix in _prefixes(codes):
        pairs, counts = np.unique(prefix * len(distinct) + category, return_counts=True)
        largest = np.zeros(int(prefix.max()) + 1, np.int64)
        np.maximum.at(largest, pairs // len(distinct), counts)
        found.append(round(float(largest.sum() / len(codes)), 5))
    return found


def _prefixes(codes: Codes) -> list[npt.NDArray[np.int64]]:
    """Numbers `[n]` from 0 that are equal where the first codes are: of no code, of the first one, and so on."""
    found = [np.zeros(len(codes), np.int64)]
    for column in codes.T.astype(np.int64):
        both = found[-1] * (column.max() + 1) + column
        found.append(np.unique(both, return_inverse=True)[1].astype(np.int64))
    return found
