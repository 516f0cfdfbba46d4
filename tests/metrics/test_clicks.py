import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, ndcg_score, roc_auc_score

from coldstart.metrics.clicks import auc, gauc, logloss, rank_users, reliability, sigmoid


def _rows(rows: int, users: int, seed: int, levels: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    user = rng.integers(0, users, rows)
    label = rng.integers(0, 2, rows)
    score = rng.normal(size=rows) + label if levels is None else rng.integers(0, levels, rows).astype(float)
    return user, label, score


def _reference(user: np.ndarray, label: np.ndarray, score: np.ndarray) -> tuple[float, int]:
    total, weight, left_out = 0.0, 0, 0
    for one in np.unique(user):
        rows_of_user = user == one
        if len(np.unique(label[rows_of_user])) < 2:
            left_out += 1
            continue
        total += roc_auc_score(label[rows_of_user], score[rows_of_user]) * rows_of_user.sum()
        weight += rows_of_user.sum()
    return total / weight, left_out


@pytest.mark.parametrize("levels", [None, 2, 5])
def test_gauc_equals_scikit_learn_with_and_without_ties(levels: int | None) -> None:
    user, label, score = _rows(3000, 400, 1, levels)
    expected, left_out = _reference(user, label, score)
    found = rank_users(user, label, score)
    assert found.mean == pytest.approx(expected, abs=1e-9)
    assert gauc(user, label, score) == found.mean
    assert found.left_out == left_out > 0


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(-3, 3)), min_size=2, max_size=60))
@settings(max_examples=80, deadline=None)
def test_auc_equals_scikit_learn_on_any_rows(rows: list[tuple[int, int]]) -> None:
    label, score = np.array(rows).T
    found = auc(label, score.astype(float))
    if len(set(label)) < 2:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(roc_auc_score(label, score), abs=1e-9)


def test_float32_scores_and_int8_labels_are_accepted() -> None:
    user, label, score = _rows(500, 20, 2)
    exact = score.astype(np.float32)
    expected, _ = _reference(user, label, exact)
    assert gauc(user, label.astype(np.int8), exact) == pytest.approx(expected, abs=1e-9)


def test_logloss_equals_scikit_learn_also_at_the_ends() -> None:
    rng = np.random.default_rng(3)
    label = rng.integers(0, 2, 1000)
    probability = rng.uniform(size=1000)
    probability[:2], label[:2] = (0.0, 1.0), (0, 0)
    assert logloss(label, probability) == pytest.approx(log_loss(label, probability), abs=1e-9)


def test_metrics_without_rows_or_classes_are_nan() -> None:
    none = np.zeros(0)
    assert math.isnan(gauc(none.astype(int), none, none))
    assert math.isnan(auc(none, none))
    assert math.isnan(logloss(none, none))
    assert math.isnan(reliability(none, none, bins=5).error)
    one_class = np.ones(4)
    assert math.isnan(gauc(np.zeros(4, int), one_class, np.arange(4.0)))


def test_calibration_error_of_a_calibrated_score_is_small_and_of_a_shifted_one_is_the_shift() -> None:
    rng = np.random.default_rng(4)
    p = rng.uniform(0.2, 0.6, 200_000)
    label = (rng.uniform(size=len(p)) < p).astype(int)
    assert reliability(label, p, bins=15).error < 0.006
    assert reliability(label, p + 0.2, bins=15).error == pytest.approx(0.2, abs=0.006)
    assert np.ptp(reliability(label, p, bins=15).rows) <= 1


def test_equal_probabilities_share_a_bin_in_any_order() -> None:
    label = np.array([0] * 50 + [1] * 50)
    found = reliability(label, np.full(100, 0.5), bins=10)
    assert found.error == pytest.approx(0.0)
    assert found.rows.tolist() == [100]


def test_sigmoid_does_not_overflow() -> None:
    with np.errstate(over="raise"):
        assert sigmoid(np.array([-1000.0, 0.0, 1000.0])).tolist() == [0.0, 0.5, 1.0]


def test_hundreds_of_thousands_of_rows_take_well_under_a_second() -> None:
    user, label, score = _rows(400_000, 5000, 5)
    started = time.process_time()
    gauc(user, label, score)
    assert time.process_time() - started < 1


def _expected_recall(label: np.ndarray, score: np.ndarray, top: int) -> float:
    """Expected recall over all orders of equal scores."""
    hits, free = 0.0, top
    for value in np.unique(score)[::-1]:
        tied = label[score == value]
        hits += tied.mean() * min(free, len(tied))
        free = max(free - len(tied), 0)
    return hits / label.sum()


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1), st.integers(-4, 4)), min_size=4, max_size=80),
    st.integers(1, 12),
)
@settings(max_examples=80)
def test_ndcg_equals_scikit_learn_and_recall_its_definition_also_with_ties(
    rows: list[tuple[int, int, int]], top: int
) -> None:
    user, label, score = np.array(rows).T
    found = rank_users(user, label, score.astype(float))
    for place, one in enumerate(found.user):
        rows_of_user = user == one
        expected = ndcg_score([label[rows_of_user]], [score[rows_of_user]], k=top)
        assert found.ndcg(top)[place] == pytest.approx(expected, abs=1e-9)
        assert found.recall(top)[place] == pytest.approx(
            _expected_recall(label[rows_of_user], score[rows_of_user], top), abs=1e-9
        )
    assert len(found.user) + found.left_out == len(np.unique(user))


def test_auc_gradient_is_the_derivative_by_a_weight_on_the_row() -> None:
    """Compares with a difference quotient for a slightly larger weight of the row, in impressions and in pairs."""
    user, label, score = np.zeros(7, int), np.array([0, 1, 0, 1, 1, 0, 1]), np.array([0.0, 1, 1, 2, 2, 3, 4])

    def weighted(extra: np.ndarray) -> float:
        weight = 1 + extra
        up, down = label == 1, label == 0
        right = (score[up][:, None] > score[down]) + 0.5 * (score[up][:, None] == score[down])
        auc = weight[up] @ right @ weight[down] / (weight[up].sum() * weight[down].sum())
        return float(auc * weight.sum())

    small = 1e-6
    expected = [(weighted(small * np.eye(7)[row]) - weighted(np.zeros(7))) / small for row in range(7)]
    np.testing.assert_allclose(rank_users(user, label, score).auc_gradient, expected, atol=1e-5)
