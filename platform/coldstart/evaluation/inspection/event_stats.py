"""What the events of a dataset are like: splits, users, cold rows of the test split, and how they change over time.

All numbers are sums over parts of the users, so that memory does not grow with the number of events.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coldstart.config.recipe import Evaluation
from coldstart.data.schema import SPLITS, TEST
from coldstart.data.sequences import Sequences, first_of_ties
from coldstart.evaluation.inference.chance_gauc import ChanceGauc
from coldstart.evaluation.inference.intervals import detectable_effect
from coldstart.evaluation.inspection.count_distribution import CountDistribution
from coldstart.evaluation.inspection.hourly_counts import HourlyCounts
from coldstart.metrics.clicks import rank_users

BURST_S = 300
"""All events of a one-burst user lie within so many seconds."""


@dataclass(frozen=True)
class SplitStats:
    """Events of a split.

    Attributes:
        events: Their number.
        clicks: Events with label 1.
        first_at: Time of the first one, Unix seconds; None without events.
        last_at: Of the last one.
    """

    events: int
    clicks: int
    first_at: int | None
    last_at: int | None

    @property
    def click_rate(self) -> float:
        """Share of clicks; NaN without events."""
        return self.clicks / self.events if self.events else float("nan")


@dataclass(frozen=True)
class RowStats:
    """Rows that an evaluation scores, and the users that own them.

    Attributes:
        rows: Their number.
        clicks: Rows with label 1.
        users: Users with such rows.
        one_class_users: Users who only click or only skip in them: they have no AUC.
        one_class_rows: Rows of these users.
    """

    rows: int = 0
    clicks: int = 0
    users: int = 0
    one_class_users: int = 0
    one_class_rows: int = 0

    @classmethod
    def of(cls, user: NDArray[np.integer], label: NDArray[np.integer]) -> "RowStats":
        """From the user index and the label of each row [n]."""
        rows, clicks = np.bincount(user), np.bincount(user, weights=label)
        one_class = (rows > 0) & ((clicks == 0) | (clicks == rows))
        counts = (rows.sum(), clicks.sum(), (rows > 0).sum(), one_class.sum(), rows[one_class].sum())
        return cls(*(int(count) for count in counts))

    def __add__(self, other: "RowStats") -> "RowStats":
        names = self.__dataclass_fields__
        return RowStats(*(getattr(self, name) + getattr(other, name) for name in names))


@dataclass(frozen=True)
class EventStats:
    """Statistics of all events.

    Attributes:
        splits: Split -> its events.
        per_user: Events of users, all splits.
        single_event_users: Users with one event.
        burst_users: Users with several events, all within `BURST_S`.
        burst_events: Events of these users.
        test: Rows of the test split.
        cold: Those of cold items.
        without_history: Rows of the test split whose user has no earlier event.
        smallest_gain: Gain in GAUC over a score without information that the cold rows can show (minimum detectable
            effect at 80 % power and the default confidence); NaN if no user has both classes.
        click_rate_gauc: GAUC on the cold rows of the click rate that their user had before: what a score without any
            knowledge of items may have; NaN if no user has both classes.
        hourly: Counts over time.
    """

    splits: dict[str, SplitStats]
    per_user: CountDistribution
    single_event_users: int
    burst_users: int
    burst_events: int
    test: RowStats
    cold: RowStats
    without_history: int
    smallest_gain: float
    click_rate_gauc: float
    hourly: HourlyCounts

    @property
    def users(self) -> int:
        """Number of users."""
        return self.per_user.units

    @property
    def events(self) -> int:
        """Number of events, of all splits."""
        return self.per_user.events


def collect_events(parts: Iterable[Sequences], cold: NDArray[np.bool_]) -> EventStats:
    """Statistics of the events of all users.

    Args:
        parts: The events of each user are in one part, ordered by time.
        cold: [N + 1] whether an item is cold, `Dataset.cold`.
    """
    splits = {name: SplitStats(0, 0, None, None) for name in SPLITS}
    per_user = CountDistribution(np.zeros(1, np.int64))
    users, test, cold_rows = np.zeros(4, np.int64), RowStats(), RowStats()
    aucs, rows = 0.0, 0.0
    chance, hourly = ChanceGauc(len(cold) - 1), HourlyCounts()
    for part in parts:
        length = np.diff(part.offsets)
        user = np.repeat(np.arange(len(length)), length)
        per_user += CountDistribution.of(length)
        splits = {name: _add_split(found, part, SPLITS[name]) for name, found in splits.items()}
        users += _user_counts(part)
        is_cold = cold[part.item_idx]
        hourly.add(part.timestamp, part.split, part.label, is_cold)
        in_test = part.split == TEST
        kept = in_test & is_cold
        test += RowStats.of(user[in_test], part.label[in_test])
        cold_rows += RowStats.of(user[kept], part.label[kept])
        chance.add(user[kept], part.item_idx[kept], part.label[kept])
        ranked = rank_users(user[kept], part.label[kept], _click_rate_before(part, user)[kept])
        aucs, rows = aucs + float(ranked.auc @ ranked.weight), rows + float(ranked.weight.sum())
    single, bursts, burst_events, without_history = (int(count) for count in users)
    return EventStats(
        splits=splits,
        per_user=per_user,
        single_event_users=single,
        burst_users=bursts,
        burst_events=burst_events,
        test=test,
        cold=cold_rows,
        without_history=without_history,
        smallest_gain=detectable_effect(chance.standard_error, confidence=Evaluation().confidence),
        click_rate_gauc=aucs / rows if rows else float("nan"),
        hourly=hourly,
    )


def _add_split(found: SplitStats, part: Sequences, code: int) -> SplitStats:
    own = part.split == code
    if not own.any():
        return found
    first, last = int(part.timestamp[own].min()), int(part.timestamp[own].max())
    return SplitStats(
        found.events + int(own.sum()),
        found.clicks + int(part.label[own].sum()),
        first if found.first_at is None else min(first, found.first_at),
        last if found.last_at is None else max(last, found.last_at),
    )


def _click_rate_before(part: Sequences, user: NDArray[np.integer]) -> NDArray[np.float64]:
    """Smoothed click rate [n] of each event's user over strictly earlier events."""
    first, seen_end = part.offsets[:-1][user], first_of_ties(user, part.timestamp)
    clicks = np.concatenate([[0], np.cumsum(part.label, dtype=np.int64)])
    rate: NDArray[np.float64] = (clicks[seen_end] - clicks[first] + 1) / (seen_end - first + 2)
    return rate


def _user_counts(part: Sequences) -> NDArray[np.int64]:
    """Users with one event, one-burst users, their events, and test rows without an earlier event of their user."""
    length = np.diff(part.offsets)
    present = length > 0
    length = length[present]
    first = part.timestamp[part.offsets[:-1][present]]
    last = part.timestamp[part.offsets[1:][present] - 1]
    burst = (length > 1) & (last - first <= BURST_S)
    # A target sees only events with a strictly smaller timestamp.
    no_history = (part.split == TEST) & (part.timestamp == np.repeat(first, length))
    return np.array([(length == 1).sum(), burst.sum(), length[burst].sum(), no_history.sum()], np.int64)
