import numpy as np

from coldstart.evaluation.variants import item_appeal, to_logit


def test_appeal_of_an_item_leaves_the_row_itself_out() -> None:
    found = item_appeal(np.array([1.0, 2.0, 6.0, 5.0]), np.array([1, 1, 1, 2]))
    assert found.tolist() == [4.0, 3.5, 1.5, 3.5]


def test_log_odds_stay_finite_at_the_ends() -> None:
    found = to_logit(np.array([0.0, 0.5, 1.0], np.float32))
    assert np.isfinite(found).all()
    assert found[1] == 0
