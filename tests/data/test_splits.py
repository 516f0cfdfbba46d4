import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coldstart.config import UserError
from coldstart.config.recipe import Data
from coldstart.data.schema import TEST, TRAIN, VALID
from coldstart.data.splits import draw_split, held_out_items, hold_out_items, time_cuts, user_codes, users_of

times = st.lists(st.integers(1, 60), min_size=1, max_size=200).map(lambda values: np.array(values, np.int64))
shares = st.tuples(st.floats(0, 0.4), st.floats(0, 0.4))


@given(times, shares)
def test_time_never_overlaps_between_splits(timestamp: np.ndarray, parts: tuple[float, float]) -> None:
    try:
        cuts = time_cuts(timestamp, *parts)
    except UserError:
        # Only if the first timestamp alone covers all of train.
        assert (timestamp == timestamp.min()).mean() > 1 - sum(parts) - 1e-6
        return
    codes = cuts.codes(timestamp)
    by_time = codes[np.argsort(timestamp, kind="stable")]
    assert (np.diff(by_time) >= 0).all()
    assert all(len(set(codes[timestamp == one])) == 1 for one in timestamp)
    assert (codes == TRAIN).any()


@given(times, shares)
def test_each_split_is_as_large_as_equal_timestamps_allow(timestamp: np.ndarray, parts: tuple[float, float]) -> None:
    try:
        cuts = time_cuts(timestamp, *parts)
    except UserError:
        return
    n = len(timestamp)
    for start, share in ((cuts.test_from, parts[1]), (cuts.valid_from, sum(parts))):
        assert (timestamp > start).sum() <= share * n + 1e-6
        assert (timestamp >= start).sum() >= share * n - 1 - 1e-6


def test_distinct_times_give_exact_shares() -> None:
    timestamp = np.random.default_rng(0).permutation(1000) + 1
    codes = time_cuts(timestamp, 0.1, 0.2).codes(timestamp)
    assert np.bincount(codes).tolist() == [700, 100, 200]


def test_a_test_fraction_of_0_gives_no_test_events() -> None:
    timestamp = np.arange(1, 11)
    assert TEST not in time_cuts(timestamp, 0.2, 0).codes(timestamp)
    assert VALID not in time_cuts(timestamp, 0, 0.2).codes(timestamp)


def test_one_timestamp_cannot_be_split() -> None:
    with pytest.raises(UserError, match="item_holdout"):
        time_cuts(np.full(50, 7), 0.1, 0.2)


@given(st.integers(0, 500), st.floats(0, 0.9), st.integers(0, 5))
def test_held_out_items_are_an_exact_seeded_share(count: int, share: float, seed: int) -> None:
    held = hold_out_items(count, share, seed)
    assert held.sum() == round(share * count)
    assert (held == hold_out_items(count, share, seed)).all()


@given(st.integers(0, 500), st.floats(0, 0.4), st.floats(0, 0.4), st.integers(0, 5))
def test_user_shares_are_exact_and_seeded(count: int, valid: float, test: float, seed: int) -> None:
    codes = user_codes(count, valid, test, seed)
    assert (codes == TEST).sum() == round(test * count)
    assert (codes == VALID).sum() == min(round(valid * count), count - round(test * count))
    assert (codes == user_codes(count, valid, test, seed)).all()


def test_another_seed_holds_out_other_items() -> None:
    assert (hold_out_items(100, 0.5, 1) != hold_out_items(100, 0.5, 2)).any()
    assert (user_codes(100, 0.2, 0.2, 1) != user_codes(100, 0.2, 0.2, 2)).any()


def holdout(share: float) -> Data:
    split = {"kind": "item_holdout", "holdout_items": share, "valid": 0.2, "test": 0.2}
    return Data.model_validate({"split": split})


def events(users: int, items: int) -> pa.Table:
    rows = [(user, item) for user in range(users) for item in range(1, items + 1)]
    columns = {
        "row": range(len(rows)),
        "user_id": [f"u{user}" for user, _ in rows],
        "item_idx": pa.array([item for _, item in rows], pa.int32()),
        "timestamp": [1] * len(rows),
        "reason": pa.nulls(len(rows), pa.string()),
    }
    empty = {name: pa.nulls(len(rows), pa.string()) for name in ("key", "value")}
    return pa.table(columns | empty)


def test_events_of_held_out_items_are_excluded_for_train_users_only() -> None:
    table, data = events(10, 4), holdout(0.5)
    held = held_out_items(data, 4, 0)
    assert held.tolist()[0] is False
    assert held.sum() == 2
    plan = draw_split(users_of(table, held), np.zeros(0, np.int64), held, data, 0)
    kept, excluded = plan.assign(table), plan.excluded(table)
    assert kept.num_rows + excluded.num_rows == table.num_rows
    assert excluded.num_rows == 6 * 2
    assert not set(kept["row"].to_pylist()) & set(excluded["row"].to_pylist())
    in_train = kept.filter(pa.array(np.asarray(kept["split"]) == TRAIN))
    assert not held[np.asarray(in_train["item_idx"])].any()


def test_a_holdout_that_leaves_nothing_to_train_on_is_refused() -> None:
    table, data = events(10, 4), holdout(0.5)
    held = np.ones(5, bool)
    with pytest.raises(UserError, match=r"no user of the train split saw an item .*lower split\.holdout_items"):
        draw_split(users_of(table, held), np.zeros(0, np.int64), held, data, 0)
