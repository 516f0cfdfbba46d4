import pytest

from coldstart.training.retrieval_curve import before_and_after, best_epoch


@pytest.mark.parametrize(("after", "best"), [((0.305, 0.301), 0), ((0.33, 0.32), 1), ((0.2, 0.33), 2), ((), 0)])
def test_an_epoch_is_better_than_no_training_only_by_more_than_the_noise(after: tuple[float, ...], best: int):
    curve = [{"both_mean_reciprocal_rank": score, "both_reciprocal_rank_error": 0.02} for score in (0.3, *after)]
    assert best_epoch(curve) == best
    kept = before_and_after(curve)
    assert kept["best_epoch"] == best
    assert kept["after"]["both_mean_reciprocal_rank"] == curve[best]["both_mean_reciprocal_rank"]


def test_without_held_out_pairs_the_last_epoch_is_kept():
    assert best_epoch([{}, {}, {}]) == 2
    assert before_and_after([{}, {}]) == {}
