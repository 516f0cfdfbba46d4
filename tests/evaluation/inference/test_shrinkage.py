import numpy as np
import pytest

from coldstart.evaluation.inference.shrinkage import shrink_means


def test_an_item_with_two_lucky_rows_is_not_first() -> None:
    rng = np.random.default_rng(0)
    rows = np.array([2, *[400] * 50])
    truth = np.concatenate([[0.0], rng.normal(0, 0.3, 50)])
    total = rng.normal(truth, 1 / np.sqrt(rows)) * rows
    total[0] = 2 * 1.5
    found = shrink_means(total, rows, 1.0)
    assert np.argmax(total / rows) == 0
    assert np.argmax(found) != 0
    assert found[1:] == pytest.approx(total[1:] / rows[1:], abs=0.1)


def test_differences_by_chance_are_shrunk_to_one_value() -> None:
    rng = np.random.default_rng(1)
    rows = rng.integers(1, 30, 400)
    found = shrink_means(rng.normal(0.2, 1 / np.sqrt(rows)) * rows, rows, 1.0)
    assert np.ptp(found) < 0.2
    assert found.mean() == pytest.approx(0.2, abs=0.05)


def test_shrunk_means_are_nearer_to_the_truth() -> None:
    rng = np.random.default_rng(2)
    rows, truth = rng.integers(1, 20, 500), rng.normal(0, 0.5, 500)
    total = rng.normal(truth, 1 / np.sqrt(rows)) * rows
    assert np.mean((shrink_means(total, rows, 1.0) - truth) ** 2) < 0.8 * np.mean((total / rows - truth) ** 2)


def test_rows_without_variance_are_not_shrunk() -> None:
    assert shrink_means(np.array([2.0, 9.0]), np.array([2, 3]), 0.0).tolist() == [1.0, 3.0]
