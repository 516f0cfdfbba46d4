import numpy as np
import pytest

from coldstart.evaluation.diagnostics.item_gains import MIN_ROWS, item_gains


def test_items_are_ordered_by_gain() -> None:
    """Item 1 is always clicked and item 2 never. The proxy predicts high rates for both."""
    item = np.repeat([1, 2, 3], 40)
    label = np.where(item == 1, 1, np.where(item == 2, 0, np.arange(120) % 2))
    after = np.where(item == 1, 2.0, np.where(item == 2, 2.0, 0.0))
    found = item_gains(item, label, np.zeros(120), after)
    assert found.item.tolist() == [1, 3, 2]
    assert found.rows.tolist() == [40, 40, 40]
    assert found.observed.tolist() == [1.0, 0.5, 0.0]
    assert found.before.tolist() == [0.5] * 3
    assert found.gain[0] == pytest.approx(np.log(2) - np.log1p(np.exp(-2)), abs=0.02)
    assert found.gain[1] == pytest.approx(0, abs=0.02)
    assert found.gain[2] < -1
    assert found.improved_fraction == pytest.approx(1 / 3)
    assert found.mean == pytest.approx((0.566 + 0 - 1.434) / 3, abs=0.01)


def test_items_with_few_rows_count_in_the_mean_but_are_not_listed() -> None:
    item = np.concatenate([np.repeat([1, 2], 50), [3, 3]])
    label = np.concatenate([np.arange(100) % 2, [1, 1]])
    after = np.where(item == 3, 8.0, np.where(item == 1, 0.1, 0.0))
    found = item_gains(item, label, np.zeros(102), after)
    assert set(found.item.tolist()) == {1, 2}
    assert found.left_out == 1
    assert found.mean > 0
    assert (found.rows >= MIN_ROWS).all()


def test_no_rows_no_items() -> None:
    none = np.zeros(0)
    found = item_gains(none.astype(int), none, none, none)
    assert len(found.item) == 0
    assert np.isnan(found.improved_fraction)
    assert np.isnan(found.mean)
