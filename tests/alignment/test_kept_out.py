import numpy as np

from coldstart.alignment.kept_out import MOST, split_mature
from coldstart.config.recipe import Coarse


def test_every_mature_item_is_on_one_side_and_always_the_same() -> None:
    mature = np.arange(10, 110)
    train, kept_out = split_mature(mature, Coarse(holdout=0.2), seed=3)
    assert len(kept_out) == 20
    assert sorted([*train, *kept_out]) == mature.tolist()
    assert split_mature(mature, Coarse(holdout=0.2), seed=3)[1].tolist() == kept_out.tolist()
    assert split_mature(mature, Coarse(holdout=0.2), seed=4)[1].tolist() != kept_out.tolist()


def test_no_more_are_kept_out_than_a_look_needs() -> None:
    assert len(split_mature(np.arange(100_000), Coarse(holdout=0.1), seed=0)[1]) == MOST
