"""Bootstrap intervals of GAUC: users are resampled, all variants on the same draws, so differences are paired.

Legend: `K` variants, `u` users, `R` resamples.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CELLS = 10_000_000
"""Resample counts held at once."""


@dataclass(frozen=True)
class Interval:
    """A figure and the percentile interval of its resamples; NaN where not defined."""

    value: float
    low: float
    high: float

    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


def resample(
    auc: NDArray[np.float64], weight: NDArray[np.float64], *, resamples: int, seed: int
) -> NDArray[np.float64]:
    """GAUC of every variant on the same resamples of users.

    Args:
        auc: [K, u] AUC per variant and user.
        weight: [u] rows of each user.
        resamples: `R`.
        seed: Of the draws.

    Returns:
        [R, K] GAUC; NaN when there is no user.
    """
    users = len(weight)
    if not users:
        return np.full((resamples, len(auc)), np.nan)
    sides = np.column_stack([(auc * weight).T, weight])
    rng = np.random.default_rng(seed)
    parts = []
    step = max(1, CELLS // users)
    for done in range(0, resamples, step):
        size = min(step, resamples - done)
        drawn = rng.integers(0, users, (size, users)) + np.arange(size)[:, None] * users
        counts = np.bincount(drawn.ravel(), minlength=size * users).reshape(size, users)
        sums = counts.astype(np.float64) @ sides
        parts.append(sums[:, :-1] / sums[:, -1:])
    return np.concatenate(parts)


def interval(value: float, draws: NDArray[np.floating[Any]], *, confidence: float) -> Interval:
    """The central share `confidence` of finite `draws` [R] around `value`."""
    finite = draws[np.isfinite(draws)]
    if not len(finite) or not np.isfinite(value):
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(finite, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value, float(low), float(high))
