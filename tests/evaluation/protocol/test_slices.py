import numpy as np

from coldstart.evaluation.protocol.slices import SLICES, describe, slices


def test_slices_partition_the_rows_by_train_events() -> None:
    events = np.array([0, 1, 9, 10, 99, 100, 5000])
    found = {name: np.flatnonzero(mask).tolist() for name, mask in slices(events, np.full(7, np.nan)).items()}
    parts = {"all": [0, 1, 2, 3, 4, 5, 6], "cold": [0], "few": [1, 2], "mid": [3, 4], "warm": [5, 6]}
    assert found == {**parts, "fresh": []}


def test_fresh_needs_a_known_age_below_a_day() -> None:
    age_s = np.array([0, 86_399, 86_400, np.nan])
    assert slices(np.zeros(4, int), age_s)["fresh"].tolist() == [True, True, False, False]


def test_every_slice_has_a_description() -> None:
    assert describe("few") == "items with 1 to 9 train events"
    assert describe("fresh") == "items younger than 24 hours at the event"
    assert len({describe(name) for name in SLICES}) == len(SLICES)
