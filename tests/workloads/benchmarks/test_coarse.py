"""The statistics of the coarse benchmark."""

from typing import Any

import pytest

from workloads.benchmarks.coarse import overhead


def round_of(**seconds: list[float]) -> dict[str, Any]:
    return {name: {"seconds": values, "cpu": 2 * values[0], "loss": 1.0} for name, values in seconds.items()}


def test_overhead_is_the_median_of_the_rounds():
    rounds = [
        round_of(platform=[1.02, 1.04, 1.03], baseline=[1.0, 1.0, 1.0]),
        round_of(platform=[2.02, 2.02, 9.0], baseline=[2.0, 2.0, 2.0]),
        round_of(platform=[1.5, 1.5, 1.5], baseline=[1.0, 1.0, 5.0]),
    ]
    result = overhead.summary(rounds)
    assert result["overhead"] == pytest.approx({"median": 0.03, "lowest": 0.01, "highest": 0.5})
    assert result["cpu_overhead"] == pytest.approx({"median": 0.02, "lowest": 0.01, "highest": 0.5})
    assert result["steps"] == 9
    assert -0.1 < result["fastest"] < 0.1


def test_warm_up_and_the_last_step_are_not_counted():
    ended = [0.0, 5.0, 6.0, 7.0, 8.5, 20.0]
    assert overhead.steps(ended) == pytest.approx([1.0, 1.5])
