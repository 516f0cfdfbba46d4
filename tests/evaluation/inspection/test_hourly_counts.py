import datetime as dt

import numpy as np
import pytest

from coldstart.data.schema import TEST, TRAIN, VALID
from coldstart.evaluation.inspection import hourly_counts
from coldstart.evaluation.inspection.hourly_counts import HourlyCounts, Period


def at(text: str) -> int:
    return int(dt.datetime.fromisoformat(f"{text}+00:00").timestamp())


def counted(times: list[str]) -> HourlyCounts:
    counts, rows = HourlyCounts(), len(times)
    counts.add(np.array([at(time) for time in times]), np.zeros(rows, int), np.ones(rows, int), np.zeros(rows, bool))
    return counts


@pytest.mark.parametrize(
    ("times", "unit", "starts"),
    [
        (["2024-02-29 22:10", "2024-02-29 22:59", "2024-03-01 00:00"], "hour", ["2024-02-29 22:00", "2024-03-01"]),
        (["2024-02-29 00:00", "2024-03-02 23:59"], "hour", ["2024-02-29", "2024-03-02 23:00"]),
        (["2024-02-28 23:59", "2024-03-02 23:59"], "day", ["2024-02-28", "2024-03-02"]),
        (["2024-01-01 00:00", "2024-01-07 23:59", "2024-06-03 12:00"], "week", ["2024-01-01", "2024-06-03"]),
        (["2023-12-31 00:00", "2024-06-09 23:59"], "week", ["2023-12-25", "2024-06-03"]),
        (["2012-02-29 01:00", "2012-02-01 00:00", "2024-12-31 23:59"], "month", ["2012-02-01", "2024-12-01"]),
    ],
)
def test_the_unit_follows_from_the_range(times: list[str], unit: str, starts: list[str]) -> None:
    found, periods = counted(times).periods()
    assert found == unit
    assert [period.start for period in periods] == [at(start) for start in starts]
    assert sum(period.events for period in periods) == len(times)


def test_events_clicks_and_cold_events_are_summed_by_split() -> None:
    counts, day = HourlyCounts(), at("2024-05-01")
    when = day + np.array([0, 10, 20, 3600, 30 * 86_400])
    split = np.array([TRAIN, TRAIN, VALID, TRAIN, TEST])
    counts.add(when, split, np.array([1, 0, 1, 1, 0]), np.array([0, 0, 0, 1, 1], bool))
    counts.add(when[:1], split[:1], np.array([1]), np.array([False]))
    assert counts.periods() == (
        "day",
        [Period(day, "train", 4, 3, 1), Period(day, "valid", 1, 1, 0), Period(day + 30 * 86_400, "test", 1, 0, 1)],
    )
    assert counts.periods(("test",)) == ("hour", [Period(day + 30 * 86_400, "test", 1, 0, 1)])
    assert counts.periods(("valid",))[1] == [Period(day, "valid", 1, 1, 0)]


def test_no_event_is_no_period() -> None:
    assert HourlyCounts().periods() == ("day", [])
    assert counted(["2024-05-01"]).periods(("test",)) == ("day", [])


def test_parts_are_merged_while_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 10**7, 500), rng.integers(0, 3, 500), rng.integers(0, 2, 500), rng.uniform(size=500) < 0.5
    whole, parts = HourlyCounts(), HourlyCounts()
    whole.add(*rows)
    monkeypatch.setattr(hourly_counts, "_MERGE_AT", 40)
    for start in range(0, 500, 25):
        parts.add(*(column[start : start + 25] for column in rows))
        assert sum(len(key) for key, _ in parts._pending) <= 40
    assert parts.periods() == whole.periods()
