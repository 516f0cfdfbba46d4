import dataclasses
import math

import numpy as np
import pytest

from coldstart.config.recipe import Evaluation
from coldstart.evaluation.inference.two_way_bootstrap import ResampleUnit, TwoWayBootstrap
from coldstart.evaluation.protocol.partial_metrics import compute_metrics
from coldstart.evaluation.protocol.protocol import RAW
from coldstart.evaluation.protocol.scored_rows import ScoredRows
from coldstart.metrics.clicks import gauc
from tests.evaluation.rows import protocol_of, scored_rows


def _resampled(
    rows: ScoredRows, num_resamples: int, group: str = "all", seed: int = 0
) -> tuple[TwoWayBootstrap, dict[str, int]]:
    protocol = protocol_of(rows)
    settings = Evaluation(num_resamples=num_resamples)
    places = {name: protocol.scores.index((RAW, name)) for name in protocol.variants}
    return TwoWayBootstrap(compute_metrics(rows, protocol).ranks[group], settings, seed), places


def test_resampling_items_matches_the_exact_bootstrap(rows: ScoredRows) -> None:
    """Compares the first-order approximation with the exact bootstrap: draw items, repeat their rows, compute GAUC."""
    found, at = _resampled(rows, 2000)
    rng = np.random.default_rng(0)
    of_item = [np.flatnonzero(rows.item_idx == item) for item in np.unique(rows.item_idx)]
    drawn = []
    for _ in range(300):
        taken = np.concatenate([of_item[item] for item in rng.integers(0, len(of_item), len(of_item))])
        user, label = rows.user_idx[taken], rows.label[taken]
        one, other = (gauc(user, label, rows.logits[name][taken]) for name in ("fine", "coarse"))
        drawn.append([one, one - other])
    exact = np.std(drawn, axis=0)
    assert found.draws(at["fine"], over=ResampleUnit.ITEMS).std() == pytest.approx(exact[0], rel=0.15)
    assert found.draws(at["fine"], at["coarse"], over=ResampleUnit.ITEMS).std() == pytest.approx(exact[1], rel=0.15)


def test_with_row_noise_only_both_is_no_wider_than_either() -> None:
    """Users and items do not differ, so all variance is that of rows, which both resamplings show."""
    rng = np.random.default_rng(0)
    n = 20_000
    label = rng.integers(0, 2, n)
    logits = {"oov": np.zeros(n), "fine": label + rng.normal(0, 2, n)}
    rows = scored_rows(rng.integers(0, 300, n), label, np.zeros(n, int), logits, item=rng.integers(1, 301, n))
    found, at = _resampled(rows, 1000)
    spread = {over: found.draws(at["fine"], over=over).std() for over in ResampleUnit}
    assert spread[ResampleUnit.BOTH] == pytest.approx(
        max(spread[ResampleUnit.USERS], spread[ResampleUnit.ITEMS]), rel=0.1
    )


def test_with_item_variance_resampling_users_is_too_narrow(rows: ScoredRows) -> None:
    found, at = _resampled(rows, 1000, "cold")
    spread = {over: found.draws(at["fine"], over=over).std() for over in ResampleUnit}
    assert spread[ResampleUnit.ITEMS] > 1.5 * spread[ResampleUnit.USERS]
    assert spread[ResampleUnit.BOTH] >= spread[ResampleUnit.ITEMS] * 0.99


@pytest.mark.parametrize("over", list(ResampleUnit))
def test_a_score_does_not_differ_from_itself(rows: ScoredRows, over: ResampleUnit) -> None:
    found, at = _resampled(rows, 20)
    same = found.difference(at["fine"], at["fine"], over)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_one_user_or_one_item_has_no_interval(rows: ScoredRows) -> None:
    alone, at = _resampled(rows.take(rows.user_idx == 3), 20)
    assert math.isnan(alone.single(at["fine"]).low)
    assert math.isfinite(alone.single(at["fine"]).value)
    single = dataclasses.replace(rows, item_idx=np.ones(len(rows), int))
    found, at = _resampled(single, 20)
    assert math.isnan(found.single(at["fine"], ResampleUnit.ITEMS).low)
    assert math.isnan(found.single(at["fine"], ResampleUnit.BOTH).low)
    assert math.isfinite(found.single(at["fine"], ResampleUnit.USERS).low)


def _simulated(seed: int) -> ScoredRows:
    """150 users and 60 items; the advantage of one variant differs by item."""
    rng = np.random.default_rng(seed)
    users, items, n = 150, 60, 6000
    user, item = rng.integers(0, users, n), rng.integers(0, items, n)
    truth = rng.normal(0, 1, items)[item] + rng.normal(0, 0.7, n)
    label = (rng.uniform(size=n) < 1 / (1 + np.exp(-truth))).astype(int)
    logits = {"oov": rng.normal(0, 1, items)[item], "fine": truth * 0.5 + rng.normal(0, 1, items)[item]}
    return scored_rows(user, label, np.zeros(n, int), logits, item=item + 1)


def test_only_intervals_over_users_and_items_cover_new_samples_of_both() -> None:
    """Every sample has new users, items and noise; the truth is the mean over many samples."""
    samples = [_resampled(_simulated(seed), 200) for seed in range(140)]
    deltas = [found.difference(at["fine"], at["oov"]) for found, at in samples]
    truth = float(np.mean([delta.value for delta in deltas]))
    tried = samples[:70]
    covered = {over: 0 for over in ResampleUnit}
    for found, at in tried:
        for over in ResampleUnit:
            span = found.difference(at["fine"], at["oov"], over)
            covered[over] += span.low <= truth <= span.high
    assert 0.86 * len(tried) <= covered[ResampleUnit.BOTH]
    assert covered[ResampleUnit.USERS] < 0.7 * len(tried)
