"""User sequences: built from single events, and held in flat arrays."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from coldstart.data.cleaning import MERGED_EVENT, REPEATED_EVENT
from coldstart.data.features import NO_TARGET_FEATURES, TargetFeatures
from coldstart.data.schema import ORACLE, SEQUENCES

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Sequences:
    """Events of all users in flat arrays: user `u` owns positions `offsets[u]` to `offsets[u + 1]`, ordered by time.

    Attributes:
        offsets: [users + 1] int64.
        item_idx: [events] int32.
        label: [events] int8.
        timestamp: [events] int64, Unix seconds.
        split: [events] int8 split code.
        user_id: One per user.
        p_click: [events] float32 true click probability; generated data only.
        p_click_content: [events] float32 its expectation given user and content; generated data only.
        features: Features of items, users and events.
    """

    offsets: NDArray[np.int64]
    item_idx: NDArray[np.int32]
    label: NDArray[np.int8]
    timestamp: NDArray[np.int64]
    split: NDArray[np.int8]
    user_id: list[str]
    p_click: NDArray[np.float32] | None = None
    p_click_content: NDArray[np.float32] | None = None
    features: TargetFeatures = NO_TARGET_FEATURES

    @classmethod
    def from_table(cls, table: pa.Table) -> "Sequences":
        """Flattens a SEQUENCES table."""
        lists = {
            name: table[name].combine_chunks() for name in table.column_names if name not in ("user_idx", "user_id")
        }
        lengths = np.asarray(lists["item_idx"].value_lengths())
        flat: dict[str, Any] = {name: np.asarray(values.flatten()) for name, values in lists.items()}
        return cls(
            np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), user_id=table["user_id"].to_pylist(), **flat
        )


def first_of_ties(user: NDArray[np.integer[Any]], time: NDArray[np.integer[Any]]) -> Ints:
    """Per event, the first position of its user that has the same timestamp; a target sees the positions before."""
    position = np.arange(len(time))
    new = np.ones(len(time), bool)
    new[1:] = (user[1:] != user[:-1]) | (time[1:] != time[:-1])
    first: Ints = np.maximum.accumulate(np.where(new, position, 0))
    return first


def order_events(events: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Sorts events by user, time and row, and merges those of one user, item and second.

    A click and the impression that it belongs to are one event: the first clicked row is kept, or the first row if none
    is clicked.

    Args:
        events: Columns user_idx, user_id, item_idx, timestamp, label, row and any others.

    Returns:
        The sorted events with unique (user, item, time), and the other rows: the columns above, and `reason`
        (MERGED_EVENT for an impression whose click is kept, otherwise REPEATED_EVENT).
    """
    names = ("user_idx", "item_idx", "timestamp", "label", "row")
    user, item, when, label, row = (np.asarray(events[name]) for name in names)
    span = int(np.ptp(when)) + 1 if len(when) else 1
    moment = user.astype(np.int64) * span + when
    order = np.argsort(row, kind="stable")
    order = order[np.argsort(moment[order], kind="stable")]
    repeats, merged = _repeats(order, moment, item, label, row)
    kept = np.ones(len(order), bool)
    kept[repeats] = False
    reason = pa.array(np.where(merged, MERGED_EVENT, REPEATED_EVENT), pa.string())
    named = events.select([*names, "user_id"]).take(repeats)
    return events.take(order[kept[order]]), named.append_column("reason", reason)


def _repeats(
    order: Ints, moment: Ints, item: NDArray[np.integer], label: NDArray[np.integer], row: NDArray[np.integer]
) -> tuple[Ints, NDArray[np.bool_]]:
    """Positions of the events that another of the same moment and item stands for, and whether it is their click.

    Args:
        order: [n] positions by moment and row.
        moment: [n] numbers that are equal for events of one user and second.
        item: [n] item indices.
        label: [n] 0 or 1.
        row: [n] row numbers.
    """
    ties = np.flatnonzero(np.diff(moment[order]) == 0)
    tied = order[np.union1d(ties, ties + 1)]  # few, so only they are sorted by more keys
    tied = tied[np.lexsort((row[tied], -label[tied], item[tied], moment[tied]))]
    same = np.zeros(len(tied), bool)
    same[1:] = (np.diff(moment[tied]) == 0) & (np.diff(item[tied]) == 0)
    first = np.maximum.accumulate(np.where(same, 0, np.arange(len(tied))))
    repeats, originals = tied[same], tied[first[same]]
    ascending = np.argsort(repeats)
    return repeats[ascending], (label[repeats] != label[originals])[ascending]


def sequence_rows(events: pa.Table) -> pa.Table:
    """One row per user (SEQUENCES) from ordered events with user_idx, user_id, item_idx, label, timestamp, split.

    The ORACLE columns and the context features become lists as well.
    """
    user = np.asarray(events["user_idx"])
    starts = np.flatnonzero(np.diff(user, prepend=-1))
    offsets = pa.array(np.append(starts, len(user)), pa.int32())
    columns = {"user_idx": events["user_idx"].take(starts), "user_id": events["user_id"].take(starts)}
    more = [name for name in events.column_names if name in ORACLE or name.startswith("context.")]
    names = [*SEQUENCES.names[2:], *more]
    for name in names:
        columns[name] = pa.ListArray.from_arrays(offsets, events[name].combine_chunks())
    schema = SEQUENCES
    for name in more:
        schema = schema.append(pa.field(name, pa.list_(events.schema.field(name).type), nullable=False))
    return pa.table(columns).cast(schema)
