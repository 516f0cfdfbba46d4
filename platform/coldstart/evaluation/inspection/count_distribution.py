"""The distribution of a count over units: train events of items, events of users."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from coldstart.evaluation.protocol.slices import warm_up_edges


@dataclass(frozen=True)
class CountDistribution:
    """How many units have how many events.

    Attributes:
        frequency: [max + 1] number of units with 0, 1, 2, ... events.
    """

    frequency: NDArray[np.int64]

    @classmethod
    def of(cls, counts: NDArray[np.integer]) -> "CountDistribution":
        """From the events of each unit [units]."""
        return cls(np.bincount(counts, minlength=1).astype(np.int64))

    def __add__(self, other: "CountDistribution") -> "CountDistribution":
        short, long = sorted((self.frequency, other.frequency), key=len)
        total = long.copy()
        total[: len(short)] += short
        return CountDistribution(total)

    @property
    def units(self) -> int:
        """Number of units."""
        return int(self.frequency.sum())

    @property
    def events(self) -> int:
        """Number of events of all units."""
        return int(self.frequency @ np.arange(len(self.frequency)))

    def between(self, low: int, high: int | None = None) -> int:
        """Number of units with at least `low` and less than `high` events; None is no bound."""
        return int(self.frequency[low:high].sum())

    def median(self, *, at_least: int = 0) -> float:
        """Median events of the units with `at_least` events or more; NaN without such units."""
        frequency = self.frequency[at_least:]
        units = int(frequency.sum())
        if not units:
            return float("nan")
        middle = np.searchsorted(np.cumsum(frequency), [(units - 1) // 2, units // 2], side="right")
        return float(middle.mean()) + at_least

    def histogram(self) -> list[tuple[str, int]]:
        """Names and units of bins, two per decade: 0, 1-2, 3-9, 10-29, ..."""
        edges = warm_up_edges(np.array([len(self.frequency) - 1]))
        bins: list[tuple[int, int | None]] = [*pairwise(edges), (edges[-1], None)]
        return [(_name(low, high), self.between(low, high)) for low, high in bins]


def _name(low: int, high: int | None) -> str:
    return f"{low:,}+" if high is None else f"{low:,}" if high == low + 1 else f"{low:,}-{high - 1:,}"
