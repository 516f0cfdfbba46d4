import numpy as np

from coldstart.config.recipe import Coarse
from coldstart.methods.idproxy.holdout import MAX_HELD_OUT, split_holdout


def test_the_split_is_a_partition_and_depends_on_the_seed_alone() -> None:
    mature = np.arange(10, 110)
    train, held_out = split_holdout(mature, Coarse(holdout_fraction=0.2), seed=3)
    assert len(held_out) == 20
    assert sorted([*train, *held_out]) == mature.tolist()
    assert split_holdout(mature, Coarse(holdout_fraction=0.2), seed=3)[1].tolist() == held_out.tolist()
    assert split_holdout(mature, Coarse(holdout_fraction=0.2), seed=4)[1].tolist() != held_out.tolist()


def test_the_number_of_held_out_items_is_bounded() -> None:
    assert len(split_holdout(np.arange(100_000), Coarse(holdout_fraction=0.1), seed=0)[1]) == MAX_HELD_OUT
