import math

import numpy as np
import pytest

from coldstart.evaluation.inspection.count_distribution import CountDistribution


@pytest.mark.parametrize("counts", [[0], [3], [0, 0, 5], [1, 2], [0, 1, 4, 4, 9, 30], [7] * 5 + [0] * 4])
def test_medians_and_sums_are_those_of_the_counts(counts: list[int]) -> None:
    found = CountDistribution.of(np.array(counts))
    assert (found.units, found.events) == (len(counts), sum(counts))
    assert found.median() == np.median(counts)
    seen = [count for count in counts if count]
    median = found.median(at_least=1)
    assert median == np.median(seen) if seen else math.isnan(median)


def test_bins_have_two_edges_per_decade_and_hold_every_unit_once() -> None:
    found = CountDistribution.of(np.array([0, 0, 1, 2, 3, 9, 10, 29, 30, 31, 1000]))
    names = {"0": 2, "1-2": 2, "3-9": 2, "10-29": 2, "30-99": 2, "100-299": 0, "300-999": 0, "1,000+": 1}
    assert dict(found.histogram()) == names
    assert CountDistribution.of(np.array([0, 1])).histogram() == [("0", 1), ("1+", 1)]
    assert CountDistribution.of(np.array([0])).histogram() == [("0+", 1)]


def test_units_between_two_counts() -> None:
    found = CountDistribution.of(np.array([0, 1, 1, 9, 10, 99, 100, 500]))
    assert [found.between(0, 1), found.between(1, 2), found.between(2, 10)] == [1, 2, 1]
    assert [found.between(10, 100), found.between(100)] == [2, 2]
    assert found.between(1000) == 0


def test_the_sum_of_two_is_that_of_all_units() -> None:
    short, long = np.array([0, 1, 1]), np.array([0, 7])
    for left, right in ((short, long), (long, short)):
        total = CountDistribution.of(left) + CountDistribution.of(right)
        np.testing.assert_array_equal(total.frequency, np.bincount(np.concatenate([left, right])))
    np.testing.assert_array_equal(CountDistribution.of(short).frequency, [1, 2])
