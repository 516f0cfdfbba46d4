"""Means of few rows, drawn towards what all have in common: a list of the best must not be led by the luckiest.

Legend: `m` units (items).
"""

import numpy as np
from numpy.typing import NDArray


def shrunk(total: NDArray[np.floating], rows: NDArray[np.integer], within: float) -> NDArray[np.float64]:
    """Normal empirical Bayes means (Morris 1983); the spread between units is DerSimonian and Laird's (1986).

    Args:
        total: [m] sums of the rows of each unit.
        rows: [m] how many those are, above 0.
        within: Variance of one row about its unit's mean.

    Returns:
        [m]; all alike where the units differ by no more than chance would make them.
    """
    if not len(rows) or not within > 0:
        return np.asarray(total / rows, np.float64)
    mean, weight = total / rows, rows / within
    common = float(np.average(mean, weights=weight))
    excess = float(np.sum(weight * (mean - common) ** 2)) - (len(rows) - 1)
    scale = float(weight.sum() - np.sum(weight**2) / weight.sum())
    between = max(excess / scale, 0.0) if scale > 0 else 0.0
    trust = between * weight / (1 + between * weight)
    centre = float(np.average(mean, weights=1 / (between + 1 / weight)))
    return np.asarray(centre + trust * (mean - centre))
