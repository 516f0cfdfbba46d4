"""A small version of the coverage benchmark, with bounds that an honest method passes and a narrow one does not."""

import pytest

from coldstart.evaluation.intervals import Interval
from coldstart.evaluation.resampling import Over
from coldstart.evaluation.scored_rows import ScoredRows
from workloads.benchmarks.coverage import covered, of_report, population

MANY, FEWEST = 40, 34
"""At a true 95 %, fewer than 34 of 40 come once in three hundred times."""


@pytest.fixture(scope="module")
def whole() -> ScoredRows:
    return population(users=300, items=300, events=30_000, seed=5)


def narrow(rows: ScoredRows, over: Over, seed: int) -> Interval:
    found = of_report(rows, over, seed)
    return Interval(found.value, *((edge + 2 * found.value) / 3 for edge in (found.low, found.high)))


@pytest.mark.parametrize("over", [Over.USERS, Over.ITEMS])
def test_intervals_cover_the_known_difference(whole: ScoredRows, over: Over) -> None:
    assert covered(whole, over, size=80, many=MANY, seed=5) >= FEWEST


def test_a_method_made_too_narrow_is_caught(whole: ScoredRows) -> None:
    assert covered(whole, Over.USERS, size=80, many=MANY, seed=5, method=narrow) < FEWEST
