import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coldstart.data.cleaning import MERGED_EVENT, REPEATED_EVENT
from coldstart.data.schema import SEQUENCES
from coldstart.data.sequences import Sequences, order_events, sequence_rows

triples = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4), st.integers(1, 5)), min_size=1, max_size=60)


def _events(rows: list[tuple[int, int, int]], *, seed: int = 0) -> pa.Table:
    user, item, when = (np.array(column) for column in zip(*rows, strict=True))
    row = np.random.default_rng(seed).permutation(len(rows))
    return pa.table(
        {
            "row": pa.array(row),
            "user_idx": pa.array(user.astype(np.int32)),
            "user_id": pa.array([f"u{one}" for one in user]),
            "item_idx": pa.array(item.astype(np.int32)),
            "timestamp": pa.array(when.astype(np.int64)),
            "label": pa.array((row % 2).astype(np.int8)),
            "split": pa.array(np.zeros(len(row), np.int8)),
            "p_click": pa.array(row.astype(np.float32)),
        }
    )


@given(triples)
def test_events_are_sorted_unique_and_complete(rows: list[tuple[int, int, int]]) -> None:
    kept, repeated = order_events(_events(rows))
    keys = [(row["user_idx"], row["timestamp"], row["row"]) for row in kept.to_pylist()]
    assert keys == sorted(keys)
    named = [(row["user_idx"], row["item_idx"], row["timestamp"]) for row in kept.to_pylist()]
    assert len(set(named)) == len(named)
    assert set(named) == {(user, item, when) for user, item, when in rows}
    kept_by_name = dict(zip(named, kept.to_pylist(), strict=True))
    assert sorted(kept["row"].to_pylist() + repeated["row"].to_pylist()) == list(range(len(rows)))
    for row in repeated.to_pylist():
        survivor = kept_by_name[row["user_idx"], row["item_idx"], row["timestamp"]]
        assert survivor["label"] >= row["label"]
        assert (row["reason"] == MERGED_EVENT) == (survivor["label"] > row["label"])
        assert survivor["row"] < row["row"] or row["reason"] == MERGED_EVENT


@given(triples, st.integers(0, 3))
def test_the_result_does_not_depend_on_the_input_order(rows: list[tuple[int, int, int]], seed: int) -> None:
    events = _events(rows)
    shuffled = events.take(np.random.default_rng(seed).permutation(len(rows)))
    assert order_events(events)[0].equals(order_events(shuffled)[0])


@given(triples)
def test_lists_flatten_back_to_the_events(rows: list[tuple[int, int, int]]) -> None:
    kept, _ = order_events(_events(rows))
    table = sequence_rows(kept)
    assert table.column_names == [*SEQUENCES.names, "p_click"]
    flat = Sequences.from_table(table)
    user = np.repeat(np.unique(np.asarray(kept["user_idx"])), np.diff(flat.offsets))
    assert user.tolist() == kept["user_idx"].to_pylist()
    for name in ("item_idx", "label", "timestamp", "split", "p_click"):
        assert getattr(flat, name).tolist() == kept[name].to_pylist()
    assert flat.p_click_content is None
    assert [flat.user_id[index] for index in np.unique(user, return_inverse=True)[1]] == kept["user_id"].to_pylist()


@pytest.mark.parametrize(
    ("labels", "kept", "reasons"),
    [
        ([0, 1], 1, {0: MERGED_EVENT}),
        ([1, 0], 0, {1: MERGED_EVENT}),
        ([0, 0], 0, {1: REPEATED_EVENT}),
        ([1, 1], 0, {1: REPEATED_EVENT}),
        ([0, 1, 0, 1], 1, {0: MERGED_EVENT, 2: MERGED_EVENT, 3: REPEATED_EVENT}),
    ],
    ids=["impression, click", "click, impression", "two impressions", "two clicks", "all"],
)
def test_a_click_and_its_impression_of_the_same_second_are_one_event(
    labels: list[int], kept: int, reasons: dict[int, str]
) -> None:
    rows = [(0, 1, 5)] * len(labels) + [(0, 2, 5), (0, 1, 6), (1, 1, 5)]
    events = _events(rows).drop_columns(["row", "label"])
    events = events.append_column("row", pa.array(range(len(rows))))
    events = events.append_column("label", pa.array([*labels, 0, 0, 0], pa.int8()))
    ordered, others = order_events(events)
    assert sorted(ordered["row"].to_pylist()) == sorted([kept, *range(len(labels), len(rows))])
    assert ordered["label"].to_pylist().count(1) == max(labels)
    assert dict(zip(others["row"].to_pylist(), others["reason"].to_pylist(), strict=True)) == reasons
