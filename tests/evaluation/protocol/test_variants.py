import numpy as np

from coldstart.evaluation.protocol.variants import compared_variants, leave_one_out_item_mean, to_logit


def test_item_effect_leaves_the_row_itself_out() -> None:
    found = leave_one_out_item_mean(np.array([1.0, 2.0, 6.0, 5.0]), np.array([1, 1, 1, 2]))
    assert found.tolist() == [4.0, 3.5, 1.5, 3.5]


def test_log_odds_of_zero_and_one_are_finite() -> None:
    found = to_logit(np.array([0.0, 0.5, 1.0], np.float32))
    assert np.isfinite(found).all()
    assert found[1] == 0


def test_each_method_says_what_its_variants_are_compared_with() -> None:
    available = ("oov", "id", "content_map", "coarse", "fine", "joint", "release", "oracle")
    assert compared_variants(available, "fine") == {
        "oov": ("id", "content_map", "coarse", "fine", "joint"),
        "id": ("coarse", "fine", "joint", "release"),
        "content_map": ("coarse", "fine", "joint"),
        "fine": ("joint",),
    }


def test_what_the_report_is_about_is_compared_with_oov() -> None:
    assert compared_variants(("oov", "id", "release"), "release") == {"oov": ("id", "release"), "id": ("release",)}
    assert compared_variants(("oov", "release"), "release") == {"oov": ("release",)}
