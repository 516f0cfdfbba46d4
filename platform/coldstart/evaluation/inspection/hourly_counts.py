"""Events per hour and split, folded to hours, days, weeks or months, to see what changes over time."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from coldstart.data.schema import EXCLUDED, SPLITS

Unit = Literal["hour", "day", "week", "month"]
HOUR, DAY = 3600, 86_400
_LONGEST: tuple[tuple[Unit, int], ...] = (("hour", 3 * DAY), ("day", 120 * DAY), ("week", 3 * 365 * DAY))
"""Up to which range a unit is used, so that a chart has at most some 170 points; longer ranges are shown by month."""
_SPLIT_CODES = EXCLUDED + 1
_MERGE_AT = 1_000_000
_EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday; weeks start on Monday.


@dataclass(frozen=True)
class Period:
    """The events of one split in one period.

    Attributes:
        start: Unix seconds, UTC.
        split: Name of the split.
        events: Their number, at least 1.
        clicks: Events with label 1.
        cold_events: Events of cold items.
    """

    start: int
    split: str
    events: int
    clicks: int
    cold_events: int


class HourlyCounts:
    """Sums of events, clicks and cold events per hour and split; parts of the events are added one after the other."""

    def __init__(self) -> None:
        self._key: NDArray[np.int64] = np.zeros(0, np.int64)
        self._sums: NDArray[np.float64] = np.zeros((3, 0))
        self._pending: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []

    def add(
        self,
        when: NDArray[np.integer],
        split: NDArray[np.integer],
        label: NDArray[np.integer],
        cold: NDArray[np.bool_],
    ) -> None:
        """Adds events.

        Args:
            when: [n] Unix seconds.
            split: [n] split codes.
            label: [n] 0 or 1.
            cold: [n] whether the item is cold.
        """
        key = when.astype(np.int64) // HOUR * _SPLIT_CODES + split
        self._pending.append(_sum_by(key, np.stack([np.ones(len(key)), label, cold])))
        if sum(len(part) for part, _ in self._pending) > _MERGE_AT:
            self._merge()

    def _merge(self) -> None:
        keys, sums = zip((self._key, self._sums), *self._pending, strict=True)
        self._key, self._sums = _sum_by(np.concatenate(keys), np.concatenate(sums, axis=1))
        self._pending = []

    def periods(self, splits: tuple[str, ...] = tuple(SPLITS)) -> tuple[Unit, list[Period]]:
        """The unit that suits the range of these splits, and all periods with events, by time and split."""
        self._merge()
        codes = {SPLITS[name]: name for name in splits}
        hour, split = np.divmod(self._key, _SPLIT_CODES)
        kept = np.isin(split, list(codes))
        if not kept.any():
            return "day", []
        hour, split, sums = hour[kept], split[kept], self._sums[:, kept]
        unit = _unit(int(hour.max() - hour.min() + 1) * HOUR)
        key, totals = _sum_by(_start(hour, unit) * _SPLIT_CODES + split, sums)
        return unit, [
            Period(int(each) // _SPLIT_CODES, codes[int(each) % _SPLIT_CODES], *(int(value) for value in values))
            for each, values in zip(key, totals.T, strict=True)
        ]


def _sum_by(key: NDArray[np.int64], values: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Distinct keys [k], ascending, and the sums [3, k] of the values [3, n]."""
    distinct, place = np.unique(key, return_inverse=True)
    return distinct, np.stack([np.bincount(place, weights=row, minlength=len(distinct)) for row in values])


def _unit(seconds: int) -> Unit:
    return next((unit for unit, longest in _LONGEST if seconds <= longest), "month")


def _start(hour: NDArray[np.int64], unit: Unit) -> NDArray[np.int64]:
    """[n] Unix seconds at which the period of each hour starts."""
    if unit == "hour":
        return hour * HOUR
    day = hour // 24
    if unit == "week":
        day = day - (day + _EPOCH_WEEKDAY) % 7
    if unit == "month":
        day = day.astype("datetime64[D]").astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    return day * DAY
