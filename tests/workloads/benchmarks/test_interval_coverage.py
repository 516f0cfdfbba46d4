"""A small version of the coverage benchmark: correct intervals pass, intervals that are too narrow fail."""

import pytest

from coldstart.evaluation.inference.intervals import Interval
from coldstart.evaluation.inference.two_way_bootstrap import ResampleUnit
from coldstart.evaluation.protocol.scored_rows import ScoredRows
from workloads.benchmarks.interval_coverage import count_covered, population, report_interval

REPETITIONS, MIN_COVERED = 40, 34
"""At a true coverage of 95 %, fewer than 34 of 40 has a probability of 1 in 300."""


@pytest.fixture(scope="module")
def log() -> ScoredRows:
    return population(users=300, items=300, events=30_000, seed=5)


def narrow(rows: ScoredRows, over: ResampleUnit, seed: int) -> Interval:
    found = report_interval(rows, over, seed)
    return Interval(found.value, *((edge + 2 * found.value) / 3 for edge in (found.low, found.high)))


@pytest.mark.parametrize("over", [ResampleUnit.USERS, ResampleUnit.ITEMS])
def test_intervals_cover_the_known_difference(log: ScoredRows, over: ResampleUnit) -> None:
    assert count_covered(log, over, size=80, count=REPETITIONS, seed=5) >= MIN_COVERED


def test_intervals_that_are_too_narrow_fail(log: ScoredRows) -> None:
    assert count_covered(log, ResampleUnit.USERS, size=80, count=REPETITIONS, seed=5, method=narrow) < MIN_COVERED
