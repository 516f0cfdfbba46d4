"""Shrinks means of few rows to the common mean, so that a list of the best units does not start with the luckiest.

Legend: `m` units (items).
"""

import numpy as np
from numpy.typing import NDArray


def shrink_means(total: NDArray[np.floating], rows: NDArray[np.integer], within: float) -> NDArray[np.float64]:
    """Normal empirical Bayes means (Morris 1983); the spread between units is DerSimonian and Laird's (1986).

    Args:
        total: [m] sums of the rows of each unit.
        rows: [m] number of rows of each unit, at least 1.
        within: Variance of a row around its unit's mean.

    Returns:
        [m] means; all equal if the units differ no more than by chance.
    """
    if not len(rows) or not within > 0:
        return np.asarray(total / rows, np.float64)
    mean, weight = total / rows, rows / within
    common = float(np.average(mean, weights=weight))
    excess = float(np.sum(weight * (mean - common) ** 2)) - (len(rows) - 1)
    scale = float(weight.sum() - np.sum(weight**2) / weight.sum())
    between = max(excess / scale, 0.0) if scale > 0 else 0.0
    factor = between * weight / (1 + between * weight)
    center = float(np.average(mean, weights=1 / (between + 1 / weight)))
    return np.asarray(center + factor * (mean - center))
