"""Figures that add up: over a window of time within a gateway, and over gateways.

Whatever is told of the traffic (rates, percentiles, distributions, calibration) is worked out from sums of vectors, so
that the figures of several gateways are the sum of theirs.
"""

from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coldstart.evaluation.metrics import Reliability, sigmoid

Sums = NDArray[np.float64]
Figures = dict[str, Sums]
"""Sums by name; the parts of a name are joined by `|`, which no release's name holds."""

SECONDS = np.geomspace(0.0005, 60.0, 60)
"""Inner edges of latency bins; each is a fifth wider than the one before."""
PROBABILITIES = sigmoid(np.linspace(-8.0, 8.0, 127))
"""Inner edges of score bins, even in log-odds: click rates are small, and differ by factors."""
SIZES: Sums = np.array([1, 2, 4, 8, 16, 32, 64, 128]) + 0.5
"""Inner edges of bins of batch sizes: 1, 2, 3 to 4, 5 to 8 and so on, and more than 128."""
MOST = "most|"
"""Begins the names of figures of which the largest counts, not the sum."""
_SLOTS = 20


class Recent:
    """Sum of vectors over a sliding window, exact to a twentieth of it.

    Args:
        width: Of the vectors.
        window_s: Length.
    """

    def __init__(self, width: int, window_s: float) -> None:
        self._slot_s = window_s / _SLOTS
        self._sums = np.zeros((_SLOTS, width))
        self._slot = np.full(_SLOTS, -_SLOTS - 1, np.int64)

    def add(self, now: float, vector: Sums) -> None:
        """Adds `[width]` at `now`, s of a clock that never goes back."""
        slot = int(now / self._slot_s)
        place = slot % _SLOTS
        if self._slot[place] != slot:
            self._slot[place] = slot
            self._sums[place] = 0
        self._sums[place] += vector

    def sums(self, now: float) -> Sums:
        """[width] what was added within the window."""
        recent = self._slot > int(now / self._slot_s) - _SLOTS
        return np.asarray(self._sums[recent].sum(axis=0))


class Depth:
    """How many are in a queue; being in it is a context."""

    def __init__(self) -> None:
        self.now = 0
        self._highest = 0
        self._peaks: deque[int] = deque([0], maxlen=60)

    def __enter__(self) -> None:
        self.now += 1
        if self.now > self._highest:
            self._highest = self.now

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.now -= 1

    def turn(self) -> None:
        """To be called once a second."""
        self._peaks.append(self._highest)
        self._highest = self.now

    def sums(self) -> Sums:
        """How many are in it, and the most that were at once within a minute."""
        return np.array([self.now, max(*self._peaks, self._highest)], np.float64)


def binned(values: Any, edges: Sums) -> Sums:
    """[len(edges) + 1] how many values lie between the edges."""
    place = np.searchsorted(edges, np.asarray(values, np.float64), side="right")
    return np.bincount(place, minlength=len(edges) + 1).astype(np.float64)


def calibration_sums(label: Any, probability: Any) -> Sums:
    """[3, bins] rows, summed probability and summed label between PROBABILITIES, flat."""
    p = np.asarray(probability, np.float64)
    place = np.searchsorted(PROBABILITIES, p, side="right")
    sides = (None, p, np.asarray(label, np.float64))
    bins = len(PROBABILITIES) + 1
    return np.concatenate([np.bincount(place, weights=side, minlength=bins) for side in sides]).astype(np.float64)


def equal_mass(counts: Sums, groups: int) -> NDArray[np.int64]:
    """[bins] into which of about equally heavy groups of neighbours each bin goes."""
    below = np.cumsum(counts) - counts
    return np.asarray(np.minimum(below * groups // max(counts.sum(), 1), groups - 1).astype(np.int64))


def reliability_of(sums: Sums, *, bins: int) -> Reliability:
    """Predicted and observed click rate in `bins` of about equal mass, from `calibration_sums`."""
    parts = sums.reshape(3, -1)
    group = equal_mass(parts[0], bins)
    return Reliability.from_sums(np.stack([np.bincount(group, weights=part, minlength=bins) for part in parts]))


def quantile(counts: Sums, edges: Sums, share: float) -> float:
    """Value below which a share of what was `binned` lies, even within a bin; NaN of nothing."""
    total = counts.sum()
    if not total:
        return float("nan")
    bounds = np.concatenate([edges[:1], edges, edges[-1:]])
    place = int(np.searchsorted(np.cumsum(counts), share * total))
    place = min(place, len(counts) - 1)
    within = (share * total - counts[:place].sum()) / max(counts[place], 1)
    return float(bounds[place] + within * (bounds[place + 1] - bounds[place]))


def added(several: Mapping[str, Figures]) -> Figures:
    """The sum of the figures of several gateways; of those named `MOST`, the largest."""
    total: Figures = {}
    for figures in several.values():
        for name, sums in figures.items():
            if name not in total:
                total[name] = sums
            elif name.startswith(MOST):
                total[name] = np.maximum(total[name], sums)
            else:
                total[name] = total[name] + sums
    return total
