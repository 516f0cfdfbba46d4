import math
import time

import numpy as np
import pytest

from coldstart.evaluation.inference.intervals import bootstrap_p_value, holm, interval, resample


def _sample(users: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two variants whose user AUCs share most of their noise; the second is better by 0.02 on average."""
    shared = rng.normal(0.6, 0.1, users)
    better = shared + 0.02 + rng.normal(0, 0.05, users)
    return np.stack([shared, better]), rng.integers(5, 60, users).astype(float)


def test_interval_covers_the_true_difference_at_its_confidence() -> None:
    covered = 0
    for trial in range(100):
        auc, weight = _sample(150, np.random.default_rng(trial))
        draws = resample(auc, weight, resamples=300, seed=trial)
        found = interval(0.02, draws[:, 1] - draws[:, 0], confidence=0.95)
        covered += found.low <= 0.02 <= found.high
    assert 88 <= covered <= 99


def test_pairing_narrows_the_interval_of_a_difference() -> None:
    auc, weight = _sample(400, np.random.default_rng(0))
    draws = resample(auc, weight, resamples=500, seed=1)
    assert np.std(draws[:, 1] - draws[:, 0]) < 0.7 * np.std(draws[:, 1])


def test_draws_depend_on_the_seed_but_not_on_the_chunk_size(monkeypatch: pytest.MonkeyPatch) -> None:
    auc, weight = _sample(50, np.random.default_rng(2))
    whole = resample(auc, weight, resamples=40, seed=3)
    monkeypatch.setattr("coldstart.evaluation.inference.intervals.CELLS", 350)
    np.testing.assert_allclose(resample(auc, weight, resamples=40, seed=3), whole)
    assert not np.allclose(resample(auc, weight, resamples=40, seed=4), whole)


def test_without_users_the_interval_is_undefined() -> None:
    draws = resample(np.zeros((2, 0)), np.zeros(0), resamples=10, seed=0)
    found = interval(float("nan"), draws[:, 0], confidence=0.95)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert not found.excludes_zero()


def test_a_thousand_resamples_of_thousands_of_users_take_under_a_second() -> None:
    auc, weight = _sample(5000, np.random.default_rng(0))
    started = time.process_time()
    resample(auc, weight, resamples=1000, seed=0)
    assert time.process_time() - started < 1


def test_holm_keeps_the_order_and_ignores_nan() -> None:
    found = holm(np.array([0.03, 0.01, math.nan, 0.02]))
    np.testing.assert_allclose(found, [0.04, 0.03, math.nan, 0.04])
    assert (holm(np.array([0.9, 0.8])) == 1).all()


def test_p_value_depends_on_the_distance_of_the_draws_from_zero() -> None:
    draws = np.random.default_rng(0).normal(0.1, 0.05, 4000)
    assert bootstrap_p_value(0.1, draws) == pytest.approx(0.0455, rel=0.1)
    assert bootstrap_p_value(0.0, np.zeros(10)) == 1
    assert math.isnan(bootstrap_p_value(0.1, np.full(10, 0.1)))
    assert math.isnan(bootstrap_p_value(math.nan, draws))
