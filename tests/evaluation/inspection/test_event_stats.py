import math
from pathlib import Path

import numpy as np
import pytest

from coldstart.data.content import Content
from coldstart.data.dataset import Dataset
from coldstart.evaluation.inference.chance_gauc import ChanceGauc
from coldstart.evaluation.inspection.event_stats import EventStats, RowStats, SplitStats, collect_events
from tests.evaluation.inspection.datasets import Event, write_dataset

COLD, ALSO_COLD = 3, 4
USERS: list[list[Event]] = [
    # Two test rows have no earlier event; of the cold rows one is clicked.
    [(1, 1, 100, "test"), (COLD, 0, 100, "test"), (ALSO_COLD, 1, 101, "test"), (2, 0, 900, "test")],
    # One class in the test split; history from training.
    [(1, 1, 10, "train"), (2, 0, 20, "train"), (COLD, 0, 50, "valid"), (COLD, 1, 500, "test")],
    # Everything within five minutes, the last second included.
    [(1, 0, 20, "train"), (2, 1, 320, "train")],
    # A second too long for that.
    [(1, 0, 20, "train"), (2, 1, 321, "train")],
    # A single event.
    [(2, 0, 40, "train")],
]


@pytest.fixture(params=[1, 2, 5])
def stats(request: pytest.FixtureRequest, tmp_path: Path) -> EventStats:
    contents = [Content(f"item {number}") for number in range(1, 5)]
    dataset = Dataset.open(write_dataset(tmp_path / "dataset", contents, USERS, users_per_part=request.param))
    assert dataset.cold.tolist() == [True, False, False, True, True]
    return collect_events(dataset.sequence_parts(), dataset.cold)


def test_splits_have_their_events_clicks_and_times(stats: EventStats) -> None:
    assert stats.splits == {
        "train": SplitStats(7, 3, 10, 321),
        "valid": SplitStats(1, 0, 50, 50),
        "test": SplitStats(5, 3, 100, 900),
    }
    assert stats.splits["test"].click_rate == 0.6
    assert math.isnan(SplitStats(0, 0, None, None).click_rate)


def test_users_are_counted_by_their_events(stats: EventStats) -> None:
    assert stats.users == 5
    assert stats.per_user.frequency.tolist() == [0, 1, 2, 0, 2]
    assert (stats.single_event_users, stats.burst_users, stats.burst_events) == (1, 1, 2)


def test_test_rows_and_cold_rows_know_their_users(stats: EventStats) -> None:
    assert stats.test == RowStats(rows=5, clicks=3, users=2, one_class_users=1, one_class_rows=1)
    assert stats.cold == RowStats(rows=3, clicks=2, users=2, one_class_users=1, one_class_rows=1)
    assert stats.without_history == 2


def test_the_click_rate_so_far_counts_strictly_earlier_events(stats: EventStats) -> None:
    # Of the only user with both classes, the clicked row sees a click and a skip, and the skipped row nothing: a tie.
    assert stats.click_rate_gauc == 0.5


def test_the_click_rate_so_far_falls_after_a_skip(tmp_path: Path) -> None:
    contents = [Content(f"item {number}") for number in range(1, 5)]
    users: list[list[Event]] = [
        [(1, 1, 1, "train"), (COLD, 0, 5, "test"), (ALSO_COLD, 1, 6, "test")],
        [(1, 0, 2, "train"), (2, 0, 3, "train"), (COLD, 1, 4, "test"), (ALSO_COLD, 0, 4, "test")],
    ]
    dataset = Dataset.open(write_dataset(tmp_path / "dataset", contents, users, users_per_part=2))
    # The first user has AUC 0, the second one a tie.
    assert collect_events(dataset.sequence_parts(), dataset.cold).click_rate_gauc == 0.25


def test_the_smallest_gain_is_that_of_the_cold_rows(stats: EventStats) -> None:
    chance = ChanceGauc(4)
    chance.add(np.array([0, 0]), np.array([COLD, ALSO_COLD]), np.array([0, 1]))
    # 1.96 for 95 % confidence, two sides, and 0.84 for 80 % power.
    assert stats.smallest_gain == pytest.approx((1.95996 + 0.84162) * chance.standard_error, rel=1e-4)


def test_counts_over_time_are_those_of_all_parts(stats: EventStats) -> None:
    unit, periods = stats.hourly.periods()
    assert unit == "hour"
    assert [(one.split, one.events, one.clicks, one.cold_events) for one in periods] == [
        ("train", 7, 3, 0),
        ("valid", 1, 0, 1),
        ("test", 5, 3, 3),
    ]


def test_a_log_without_cold_rows_can_show_no_gain(tmp_path: Path) -> None:
    users: list[list[Event]] = [[(1, 1, 1, "train"), (1, 0, 2, "test")]]
    dataset = Dataset.open(write_dataset(tmp_path / "dataset", [Content("one")], users))
    stats = collect_events(dataset.sequence_parts(), dataset.cold)
    assert stats.cold == RowStats()
    assert math.isnan(stats.smallest_gain)
    assert stats.splits["valid"] == SplitStats(0, 0, None, None)
