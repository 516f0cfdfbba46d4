import numpy as np

from coldstart.evaluation.slices import RANGES, meaning, slices


def test_slices_part_the_rows_by_train_events() -> None:
    events = np.array([0, 1, 9, 10, 99, 100, 5000])
    found = {name: np.flatnonzero(mask).tolist() for name, mask in slices(events).items()}
    assert found == {"all": [0, 1, 2, 3, 4, 5, 6], "cold": [0], "few": [1, 2], "mid": [3, 4], "warm": [5, 6]}


def test_every_slice_says_what_it_holds() -> None:
    assert meaning("few") == "items with 1 to 9 train events"
    assert len({meaning(name) for name in RANGES}) == len(RANGES)
