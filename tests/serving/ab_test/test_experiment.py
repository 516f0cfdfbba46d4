import os
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from coldstart.config.recipe import Challenger
from coldstart.serving.ab_test.experiment import TrafficSplit, abort_reason, variant_sums

USERS = [f"user-{number}" for number in range(20_000)]
LIMITS = Challenger(min_requests=50, max_error_rate_increase=0.01, max_p95_ratio=2.0, latency_slack_ms=20.0)


def selected(challenger: str = "demo-scorer/2", **settings: object) -> set[str]:
    split = TrafficSplit(challenger, Challenger.model_validate(settings))
    return {user for user in USERS if split.to_challenger(user)}


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_the_fraction_of_users_is_within_binomial_bounds(share):
    low, high = binom.interval(1 - 1e-6, len(USERS), share)
    assert low <= len(selected(traffic_fraction=share)) <= high


def test_fractions_0_and_1_select_none_and_all():
    assert not selected(traffic_fraction=0.0)
    assert len(selected(traffic_fraction=1.0)) == len(USERS)


def test_a_larger_fraction_keeps_the_users_of_a_smaller_one():
    assert selected(traffic_fraction=0.05) < selected(traffic_fraction=0.1) < selected(traffic_fraction=0.6)


@pytest.mark.parametrize("other", [{"challenger": "demo-scorer/3"}, {"salt": "another"}])
def test_another_test_selects_users_independently(other):
    both = selected(traffic_fraction=0.3) & selected(traffic_fraction=0.3, **other)
    low, high = binom.interval(1 - 1e-6, len(USERS), 0.09)
    assert low <= len(both) <= high


def test_all_processes_select_the_same_users_with_any_hash_seed():
    program = (
        "from coldstart.serving.ab_test.experiment import TrafficSplit; from coldstart.config.recipe import Challenger;"
        "split = TrafficSplit('demo-scorer/2', Challenger(traffic_fraction=0.1));"
        "print([n for n in range(2000) if split.to_challenger(f'user-{n}')])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    expected = selected(traffic_fraction=0.1)
    assert outputs == {f"{[n for n in range(2000) if f'user-{n}' in expected]}\n"}


def test_any_user_id_can_be_selected():
    assert TrafficSplit("a", Challenger(traffic_fraction=1.0)).to_challenger("\ud800 \x00 名")


FAST = variant_sums([0.01] * 500, 0)


@pytest.mark.parametrize(
    ("champion", "challenger", "expected_reason"),
    [
        (FAST, None, None),
        (None, variant_sums([0.01] * 50, 50), "failed"),
        (FAST, variant_sums([0.01] * 49, 49), None),
        (FAST, variant_sums([0.01] * 50, 1), None),
        (FAST, variant_sums([0.01] * 1000, 15), None),
        (FAST, variant_sums([0.01] * 1000, 40), "failed"),
        # The champion fails as often.
        (variant_sums([0.01] * 1000, 300), variant_sums([0.01] * 1000, 300), None),
        (FAST, variant_sums([0.03] * 1000, 0), None),
        (FAST, variant_sums([0.01] * 940 + [0.2] * 60, 0), None),
        (FAST, variant_sums([0.01] * 850 + [0.2] * 150, 0), "took over"),
        (variant_sums([0.01] * 20, 0), variant_sums([0.2] * 200, 0), None),
    ],
)
def test_a_test_is_aborted_only_for_a_significant_difference(champion, challenger, expected_reason):
    reason = abort_reason(champion, challenger, LIMITS)
    assert (reason is None) if expected_reason is None else (reason is not None and expected_reason in reason)


def test_the_bound_is_the_wilson_interval():
    """A test is aborted exactly if the lower end of the interval is above the limit."""
    requests = 400
    for failed in range(1, 40):
        confidence = 0.9973002039367398  # Three standard errors, two-sided.
        low = binomtest(failed, requests).proportion_ci(confidence, method="wilson").low
        assert (abort_reason(None, variant_sums([0.01] * requests, failed), LIMITS) is not None) == (
            low > LIMITS.max_error_rate_increase
        )


def test_a_healthy_challenger_is_rarely_aborted():
    """Two equal variants, checked after every ten requests of a long test, in 40 tests."""
    rng = np.random.default_rng(5)
    aborted = 0
    for _ in range(40):
        seconds = rng.lognormal(-4, 0.6, (2, 1000))
        failed = rng.random((2, 1000)) < 0.01
        for seen in range(50, 1000, 10):
            sides = [variant_sums(list(seconds[k, :seen]), int(failed[k, :seen].sum())) for k in (0, 1)]
            if abort_reason(*sides, LIMITS):
                aborted += 1
                break
    assert aborted <= 1
