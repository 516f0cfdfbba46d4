import dataclasses
import math

import numpy as np
import pytest

from coldstart.config.recipe import Evaluation
from coldstart.evaluation.measured import measure
from coldstart.evaluation.metrics import gauc
from coldstart.evaluation.protocol import SERVED
from coldstart.evaluation.resampling import Over, Resampled
from coldstart.evaluation.scored_rows import ScoredRows
from tests.evaluation.rows import protocol_of, scored_rows


def _resampled(rows: ScoredRows, bootstrap: int, group: str = "all", seed: int = 0) -> tuple[Resampled, dict[str, int]]:
    protocol = protocol_of(rows)
    settings = Evaluation(bootstrap=bootstrap)
    places = {name: protocol.scores.index((SERVED, name)) for name in protocol.variants}
    return Resampled(measure(rows, protocol).ranks[group], settings, seed), places


def test_items_are_resampled_as_if_their_rows_were_drawn_again(rows: ScoredRows) -> None:
    """The first order by influence against the bootstrap itself: draw items, repeat their rows, measure."""
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
    assert found.draws(at["fine"], over=Over.ITEMS).std() == pytest.approx(exact[0], rel=0.15)
    assert found.draws(at["fine"], at["coarse"], over=Over.ITEMS).std() == pytest.approx(exact[1], rel=0.15)


def test_where_rows_alone_are_noisy_both_is_no_wider_than_either() -> None:
    """Users and items differ in nothing, so all spread is the rows' own, which both resamplings show."""
    rng = np.random.default_rng(0)
    n = 20_000
    label = rng.integers(0, 2, n)
    logits = {"oov": np.zeros(n), "fine": label + rng.normal(0, 2, n)}
    rows = scored_rows(rng.integers(0, 300, n), label, np.zeros(n, int), logits, item=rng.integers(1, 301, n))
    found, at = _resampled(rows, 1000)
    spread = {over: found.draws(at["fine"], over=over).std() for over in Over}
    assert spread[Over.BOTH] == pytest.approx(max(spread[Over.USERS], spread[Over.ITEMS]), rel=0.1)


def test_where_items_differ_users_alone_are_too_sure(rows: ScoredRows) -> None:
    found, at = _resampled(rows, 1000, "cold")
    spread = {over: found.draws(at["fine"], over=over).std() for over in Over}
    assert spread[Over.ITEMS] > 1.5 * spread[Over.USERS]
    assert spread[Over.BOTH] >= spread[Over.ITEMS] * 0.99


@pytest.mark.parametrize("over", list(Over))
def test_a_score_does_not_differ_from_itself(rows: ScoredRows, over: Over) -> None:
    found, at = _resampled(rows, 20)
    same = found.difference(at["fine"], at["fine"], over)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_one_user_or_one_item_has_no_spread_to_tell(rows: ScoredRows) -> None:
    alone, at = _resampled(rows.take(rows.user_idx == 3), 20)
    assert math.isnan(alone.single(at["fine"]).low)
    assert math.isfinite(alone.single(at["fine"]).value)
    single = dataclasses.replace(rows, item_idx=np.ones(len(rows), int))
    found, at = _resampled(single, 20)
    assert math.isnan(found.single(at["fine"], Over.ITEMS).low)
    assert math.isnan(found.single(at["fine"], Over.BOTH).low)
    assert math.isfinite(found.single(at["fine"], Over.USERS).low)


def _simulated(seed: int) -> ScoredRows:
    """60 items on which one variant is better by an amount of the item's own, shown to 150 users."""
    rng = np.random.default_rng(seed)
    users, items, n = 150, 60, 6000
    user, item = rng.integers(0, users, n), rng.integers(0, items, n)
    truth = rng.normal(0, 1, items)[item] + rng.normal(0, 0.7, n)
    label = (rng.uniform(size=n) < 1 / (1 + np.exp(-truth))).astype(int)
    logits = {"oov": rng.normal(0, 1, items)[item], "fine": truth * 0.5 + rng.normal(0, 1, items)[item]}
    return scored_rows(user, label, np.zeros(n, int), logits, item=item + 1)


def test_intervals_over_both_cover_a_difference_between_worlds_and_those_over_users_do_not() -> None:
    """Users, items and their noise are drawn anew in each world; the truth is the mean over many."""
    worlds = [_resampled(_simulated(seed), 200) for seed in range(140)]
    deltas = [found.difference(at["fine"], at["oov"]) for found, at in worlds]
    truth = float(np.mean([delta.value for delta in deltas]))
    tried = worlds[:70]
    covered = {over: 0 for over in Over}
    for found, at in tried:
        for over in Over:
            span = found.difference(at["fine"], at["oov"], over)
            covered[over] += span.low <= truth <= span.high
    assert 0.86 * len(tried) <= covered[Over.BOTH]
    assert covered[Over.USERS] < 0.7 * len(tried)
