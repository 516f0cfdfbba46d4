"""Bootstrap intervals and tests. All variants use the same resamples, so their differences are paired.

Legend: `K` variants, `u` users, `R` resamples.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

CELLS = 10_000_000
"""Resample counts in memory at once."""


@dataclass(frozen=True)
class Interval:
    """A value and the percentile interval of its resamples; NaN if undefined."""

    value: float
    low: float
    high: float

    def excludes_zero(self) -> bool:
        """Whether the whole interval is on one side of zero."""
        return self.low > 0 or self.high < 0


def resample(
    auc: NDArray[np.float64], weight: NDArray[np.float64], *, resamples: int, seed: int | Sequence[int]
) -> NDArray[np.float64]:
    """GAUC of every variant on the same resamples of users.

    Args:
        auc: [K, u] AUC per variant and user.
        weight: [u] rows of each user.
        resamples: `R`.
        seed: Of the draws.

    Returns:
        [R, K] GAUC; NaN without users.
    """
    if not len(weight):
        return np.full((resamples, len(auc)), np.nan)
    sides = np.column_stack([(auc * weight).T, weight])
    sums = np.concatenate([counts @ sides for counts in resample_counts(len(weight), resamples=resamples, seed=seed)])
    return np.asarray(sums[:, :-1] / sums[:, -1:])


def resample_counts(units: int, *, resamples: int, seed: int | Sequence[int]) -> Iterator[NDArray[np.float64]]:
    """How often each unit (user, item) is drawn in each resample, in chunks [r, units] of all `resamples` rows."""
    rng = np.random.default_rng(seed)
    step = max(1, CELLS // units)
    for done in range(0, resamples, step):
        size = min(step, resamples - done)
        drawn = rng.integers(0, units, (size, units)) + np.arange(size)[:, None] * units
        yield np.bincount(drawn.ravel(), minlength=size * units).reshape(size, units).astype(np.float64)


def interval(value: float, draws: NDArray[np.floating[Any]], *, confidence: float) -> Interval:
    """The central `confidence` interval of the finite `draws` [R] of `value`."""
    finite = draws[np.isfinite(draws)]
    if not len(finite) or not np.isfinite(value):
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(finite, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value, float(low), float(high))


def bootstrap_p_value(value: float, draws: NDArray[np.floating[Any]]) -> float:
    """Two-sided p-value of `value` against zero, from the spread of its draws [R]; NaN if undefined.

    Uses the normal distribution, since counting draws cannot give less than 2 / R, too much for many comparisons.
    """
    finite = draws[np.isfinite(draws)]
    if len(finite) < 2 or not np.isfinite(value):
        return float("nan")
    spread = float(finite.std(ddof=1))
    if spread == 0:
        return 1.0 if value == 0 else float("nan")
    return float(2 * ndtr(-abs(value) / spread))


def difference_test(value: float, draws: NDArray[np.floating[Any]], *, confidence: float) -> dict[str, float]:
    """`p` of a difference and its minimum detectable effect `mde`, from its draws [R]; NaN if all draws are equal."""
    if not np.ptp(draws) > 0:
        return {"p": math.nan, "mde": math.nan}
    return {"p": bootstrap_p_value(value, draws), "mde": minimum_detectable_effect(draws, confidence=confidence)}


def holm_corrected(family: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Adds `p_holm` to each test of a family."""
    found = holm(np.array([entry["p"] for entry in family], np.float64))
    return [{**entry, "p_holm": float(p)} for entry, p in zip(family, found, strict=True)]


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """P-values [n] with Holm's correction (1979); NaN stays NaN and is not counted."""
    corrected = np.full(len(p), np.nan)
    defined = np.flatnonzero(~np.isnan(p))
    order = defined[np.argsort(p[defined], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return corrected


def minimum_detectable_effect(draws: NDArray[np.floating[Any]], *, confidence: float, power: float = 0.8) -> float:
    """The true difference that a test at `confidence` would find with probability `power` (Bloom 1995).

    A null result excludes larger effects of either sign. NaN without draws.
    """
    finite = draws[np.isfinite(draws)]
    if len(finite) < 2:
        return float("nan")
    return detectable_effect(float(finite.std(ddof=1)), confidence=confidence, power=power)


def detectable_effect(standard_error: float, *, confidence: float, power: float = 0.8) -> float:
    """`minimum_detectable_effect` from the standard error of an estimate."""
    return float((ndtri((1 + confidence) / 2) + ndtri(power)) * standard_error)
