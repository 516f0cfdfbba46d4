import numpy as np

from coldstart.evaluation.protocol.variants import leave_one_out_item_mean, to_logit


def test_item_effect_leaves_the_row_itself_out() -> None:
    found = leave_one_out_item_mean(np.array([1.0, 2.0, 6.0, 5.0]), np.array([1, 1, 1, 2]))
    assert found.tolist() == [4.0, 3.5, 1.5, 3.5]


def test_log_odds_of_zero_and_one_are_finite() -> None:
    found = to_logit(np.array([0.0, 0.5, 1.0], np.float32))
    assert np.isfinite(found).all()
    assert found[1] == 0
