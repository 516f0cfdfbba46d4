"""Statistics that can be added, over a sliding window within a gateway and over gateways.

Rates, percentiles, distributions and calibration are all computed from sums of vectors, so the statistics of several
gateways are the sum of theirs.
"""

from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coldstart.metrics.clicks import Reliability, sigmoid

Sums = NDArray[np.float64]
WindowStats = dict[str, Sums]
"""Sums by name; the parts of a name are joined by `|`, which release names do not contain."""

LATENCY_EDGES_S = np.geomspace(0.0005, 60.0, 60)
"""Inner edges of latency bins; each bin is a fifth wider than the one before."""
SCORE_EDGES = sigmoid(np.linspace(-8.0, 8.0, 127))
"""Inner edges of score bins, equally spaced in log-odds: click rates are small and differ by factors."""
BATCH_SIZE_EDGES: Sums = np.array([1, 2, 4, 8, 16, 32, 64, 128]) + 0.5
"""Inner edges of batch size bins: 1, 2, 3 to 4, 5 to 8 and so on, and more than 128."""
MAX_PREFIX = "max|"
"""Prefix of the statistics that are merged by their maximum, not their sum."""
_SLOTS = 20


class SlidingWindowSum:
    """Sum of vectors over a sliding window, exact to a twentieth of the window.

    Args:
        width: Length of the vectors.
        window_s: Length of the window in seconds.
    """

    def __init__(self, width: int, window_s: float) -> None:
        self._slot_s = window_s / _SLOTS
        self._sums = np.zeros((_SLOTS, width))
        self._slot = np.full(_SLOTS, -_SLOTS - 1, np.int64)

    def add(self, now: float, vector: Sums) -> None:
        """Adds a vector `[width]` at `now`, in seconds of a monotonic clock."""
        slot = int(now / self._slot_s)
        index = slot % _SLOTS
        if self._slot[index] != slot:
            self._slot[index] = slot
            self._sums[index] = 0
        self._sums[index] += vector

    def sums(self, now: float) -> Sums:
        """The sum `[width]` of the vectors in the window."""
        recent = self._slot > int(now / self._slot_s) - _SLOTS
        return np.asarray(self._sums[recent].sum(axis=0))


class QueueDepth:
    """Counts the calls in a queue; each call is a context."""

    def __init__(self) -> None:
        self.current = 0
        self._highest = 0
        self._peaks: deque[int] = deque([0], maxlen=60)

    def __enter__(self) -> None:
        self.current += 1
        if self.current > self._highest:
            self._highest = self.current

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.current -= 1

    def tick(self) -> None:
        """Must be called once a second."""
        self._peaks.append(self._highest)
        self._highest = self.current

    def sums(self) -> Sums:
        """Current depth, and the peak of the last minute."""
        return np.array([self.current, max(*self._peaks, self._highest)], np.float64)


def bin_counts(values: Any, edges: Sums) -> Sums:
    """Number of values in each bin, `[len(edges) + 1]`."""
    bins = np.searchsorted(edges, np.asarray(values, np.float64), side="right")
    return np.bincount(bins, minlength=len(edges) + 1).astype(np.float64)


def calibration_sums(label: Any, probability: Any) -> Sums:
    """Row count, summed probability and summed label in each bin of SCORE_EDGES, `[3, bins]` flattened."""
    p = np.asarray(probability, np.float64)
    index = np.searchsorted(SCORE_EDGES, p, side="right")
    weights = (None, p, np.asarray(label, np.float64))
    bins = len(SCORE_EDGES) + 1
    return np.concatenate([np.bincount(index, weights=w, minlength=bins) for w in weights]).astype(np.float64)


def equal_mass_bins(counts: Sums, groups: int) -> NDArray[np.int64]:
    """The group of each bin, `[bins]`: adjacent bins are grouped so that the groups have about equal mass."""
    below = np.cumsum(counts) - counts
    return np.asarray(np.minimum(below * groups // max(counts.sum(), 1), groups - 1).astype(np.int64))


def reliability_from_sums(sums: Sums, *, bins: int) -> Reliability:
    """Predicted and observed click rate in `bins` groups of about equal mass, from `calibration_sums`."""
    rows = sums.reshape(3, -1)
    group = equal_mass_bins(rows[0], bins)
    return Reliability.from_sums(np.stack([np.bincount(group, weights=row, minlength=bins) for row in rows]))


def binned_quantile(counts: Sums, edges: Sums, share: float) -> float:
    """Quantile of binned values, interpolated within the bin; NaN if there are no values."""
    total = counts.sum()
    if not total:
        return float("nan")
    bounds = np.concatenate([edges[:1], edges, edges[-1:]])
    index = int(np.searchsorted(np.cumsum(counts), share * total))
    index = min(index, len(counts) - 1)
    within = (share * total - counts[:index].sum()) / max(counts[index], 1)
    return float(bounds[index] + within * (bounds[index + 1] - bounds[index]))


def merge(gateways: Mapping[str, WindowStats]) -> WindowStats:
    """The sum of the statistics of several gateways; the maximum of those named `MAX_PREFIX`."""
    total: WindowStats = {}
    for stats in gateways.values():
        for name, sums in stats.items():
            if name not in total:
                total[name] = sums
            elif name.startswith(MAX_PREFIX):
                total[name] = np.maximum(total[name], sums)
            else:
                total[name] = total[name] + sums
    return total
