import os
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from coldstart.config.recipe import Challenger
from coldstart.serving.trial import Draw, judge, side

USERS = [f"user-{number}" for number in range(20_000)]
LIMITS = Challenger(min_requests=50, more_errors=0.01, slower=2.0, slack_ms=20.0)


def drawn(challenger: str = "demo-adaptor/2", **settings: object) -> set[str]:
    draw = Draw(challenger, Challenger.model_validate(settings))
    return {user for user in USERS if draw.takes(user)}


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_the_share_of_users_is_within_binomial_bounds(share):
    low, high = binom.interval(1 - 1e-6, len(USERS), share)
    assert low <= len(drawn(share=share)) <= high


def test_nobody_and_everybody():
    assert not drawn(share=0.0)
    assert len(drawn(share=1.0)) == len(USERS)


def test_a_larger_share_keeps_the_users_of_a_smaller_one():
    assert drawn(share=0.05) < drawn(share=0.1) < drawn(share=0.6)


@pytest.mark.parametrize("other", [{"challenger": "demo-adaptor/3"}, {"salt": "another"}])
def test_another_trial_draws_other_users_independently(other):
    both = drawn(share=0.3) & drawn(share=0.3, **other)
    low, high = binom.interval(1 - 1e-6, len(USERS), 0.09)
    assert low <= len(both) <= high


def test_every_process_draws_the_same_users_whatever_its_hash_seed():
    program = (
        "from coldstart.serving.trial import Draw; from coldstart.config.recipe import Challenger;"
        "draw = Draw('demo-adaptor/2', Challenger(share=0.1));"
        "print([n for n in range(2000) if draw.takes(f'user-{n}')])"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    here = drawn(share=0.1)
    assert said == {f"{[n for n in range(2000) if f'user-{n}' in here]}\n"}


def test_any_user_id_can_be_drawn():
    assert Draw("a", Challenger(share=1.0)).takes("\ud800 \x00 名")


FAST = side([0.01] * 500, 0)


@pytest.mark.parametrize(
    ("champion", "challenger", "ends"),
    [
        (FAST, None, None),
        (None, side([0.01] * 50, 50), "failed"),
        (FAST, side([0.01] * 49, 49), None),
        (FAST, side([0.01] * 50, 1), None),
        (FAST, side([0.01] * 1000, 15), None),
        (FAST, side([0.01] * 1000, 40), "failed"),
        # Where the champion fails as often, it is not the challenger's fault.
        (side([0.01] * 1000, 300), side([0.01] * 1000, 300), None),
        (FAST, side([0.03] * 1000, 0), None),
        (FAST, side([0.01] * 940 + [0.2] * 60, 0), None),
        (FAST, side([0.01] * 850 + [0.2] * 150, 0), "took over"),
        (side([0.01] * 20, 0), side([0.2] * 200, 0), None),
    ],
)
def test_a_trial_ends_only_for_a_reason(champion, challenger, ends):
    reason = judge(champion, challenger, LIMITS)
    assert (reason is None) if ends is None else (reason is not None and ends in reason)


def test_the_bound_is_wilsons():
    """Just above and just below the rate at which the lower end of the interval passes what is allowed."""
    asked = 400
    for failed in range(1, 40):
        confidence = 0.9973002039367398  # of three standard errors, two-sided
        low = binomtest(failed, asked).proportion_ci(confidence, method="wilson").low
        assert (judge(None, side([0.01] * asked, failed), LIMITS) is not None) == (low > LIMITS.more_errors)


def test_a_healthy_challenger_is_hardly_ever_aborted():
    """Two alike, looked at after every request of a long trial: chance gets a thousand tries in each of 40 trials."""
    rng = np.random.default_rng(5)
    aborted = 0
    for _ in range(40):
        seconds = rng.lognormal(-4, 0.6, (2, 1000))
        failed = rng.random((2, 1000)) < 0.01
        for seen in range(50, 1000, 10):
            sides = [side(list(seconds[k, :seen]), int(failed[k, :seen].sum())) for k in (0, 1)]
            if judge(*sides, LIMITS):
                aborted += 1
                break
    assert aborted <= 1
