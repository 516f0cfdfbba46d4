import math

import numpy as np
import pytest

from coldstart.evaluation.inference.chance_gauc import ChanceGauc
from coldstart.metrics.clicks import gauc


def simulated(user: np.ndarray, item: np.ndarray, label: np.ndarray, draws: int) -> float:
    rng = np.random.default_rng(1)
    found = [gauc(user, label, rng.uniform(size=int(item.max()) + 1)[item]) for _ in range(draws)]
    return float(np.std(found))


@pytest.mark.parametrize(
    ("users", "items", "rows", "item_effect"),
    [(60, 4000, 900, 0.0), (200, 60, 3000, 0.0), (200, 60, 3000, 2.0), (25, 400, 60, 0.0)],
    ids=["items seen once", "items seen often", "strong item effect", "two or three rows per user"],
)
def test_it_is_the_spread_of_the_gauc_of_random_item_scores(
    users: int, items: int, rows: int, item_effect: float
) -> None:
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, users, rows), rng.integers(1, items + 1, rows)
    effect = item_effect * rng.normal(size=items + 1)
    label = (rng.uniform(size=rows) < 1 / (1 + np.exp(0.5 - effect[item]))).astype(np.int8)
    chance = ChanceGauc(items)
    chance.add(user, item, label)
    assert chance.standard_error == pytest.approx(simulated(user, item, label, 600), rel=0.09)


def test_rows_of_a_user_who_only_clicks_or_only_skips_do_not_count() -> None:
    one, more = ChanceGauc(9), ChanceGauc(9)
    one.add(np.array([0, 0]), np.array([1, 2]), np.array([1, 0]))
    more.add(np.array([0, 0, 1, 1, 2]), np.array([1, 2, 3, 4, 5]), np.array([1, 0, 1, 1, 0]))
    # A pair in random order has AUC 0 or 1.
    assert one.standard_error == more.standard_error == pytest.approx(0.5)


def test_parts_of_the_users_give_what_all_users_give() -> None:
    rng = np.random.default_rng(3)
    user, item = np.sort(rng.integers(0, 50, 600)), rng.integers(1, 31, 600)
    label = rng.integers(0, 2, 600)
    whole, parts = ChanceGauc(30), ChanceGauc(30)
    whole.add(user, item, label)
    for part in (user < 20, user >= 20):
        parts.add(user[part], item[part], label[part])
    assert parts.standard_error == pytest.approx(whole.standard_error, rel=1e-12)


def test_it_is_undefined_without_a_user_with_both_classes() -> None:
    chance = ChanceGauc(3)
    assert math.isnan(chance.standard_error)
    chance.add(np.array([0, 1]), np.array([1, 2]), np.array([1, 0]))
    assert math.isnan(chance.standard_error)
    chance.add(np.zeros(0, int), np.zeros(0, int), np.zeros(0, int))
    assert math.isnan(chance.standard_error)
    chance.add(np.array([0, 0]), np.array([1, 1]), np.array([1, 0]))
    assert math.isnan(chance.standard_error)


def test_pairs_of_the_same_item_are_ties() -> None:
    user, item, label = np.array([0, 0, 0]), np.array([1, 1, 2]), np.array([1, 0, 0])
    chance = ChanceGauc(2)
    chance.add(user, item, label)
    # One pair is a tie, the other one is right or wrong: AUC is .25 or .75.
    assert chance.standard_error == pytest.approx(0.25)
    assert chance.standard_error == pytest.approx(simulated(user, item, label, 600), rel=0.1)
