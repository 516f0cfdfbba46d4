import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

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
    first = {name: row["row"] for name, row in zip(named, kept.to_pylist(), strict=True)}
    assert sorted(kept["row"].to_pylist() + repeated["row"].to_pylist()) == list(range(len(rows)))
    for row in repeated.to_pylist():
        assert row["row"] > first[row["user_idx"], row["item_idx"], row["timestamp"]]


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
