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
    buckets = np.unique(codes, axis=0, return_counts=True)[1]
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
    found = []
    for level in range(codes.shape[1] + 1):
        prefix = np.unique(codes[:, :level], axis=0, return_inverse=True)[1].reshape(-1) if level else 0 * category
        pairs, counts = np.unique(np.stack([prefix, category]), axis=1, return_counts=True)
        largest = np.zeros(int(prefix.max()) + 1, np.int64)
        np.maximum.at(largest, pairs[0], counts)
        found.append(round(float(largest.sum() / len(codes)), 5))
    return found
