"""The rows of a dataset as other CTR libraries read them: one line per impression, with its history spelt out.

Legend: `n` impressions, `L` history.
"""

import hashlib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coldstart.data.batches import EventSequences
from coldstart.data.contract import SPLITS, TRAIN

PRIOR_EVENTS = 2.0
"""Events at a click rate of one half that smooth the rate of a short history."""
RATE_BUCKETS = 20


@dataclass(frozen=True)
class Rows:
    """`train.npz`, `valid.npz` and `test.npz` in a directory, uncompressed.

    Attributes:
        path: The directory.
        digest: Of everything in it.
        train: Impressions in the train split.
        test: Impressions in the test split.
        vocabulary: Items + 1; 0 is padding.
    """

    path: Path
    digest: str
    train: int
    test: int
    vocabulary: int


def write_rows(sequences: EventSequences, num_items: int, home: Path, *, length: int) -> Rows:
    """Writes a dataset's impressions into a directory of `home` that is named by their digest, if it is not there.

    Args:
        sequences: Events of all users.
        num_items: Of the catalogue.
        home: Parent of the directory.
        length: `L`.
    """
    tables = {name: impressions(sequences, code, length=length) for name, code in SPLITS.items()}
    total = hashlib.sha256(str(num_items).encode())
    for table in tables.values():
        for values in table.values():
            total.update(values.data)
    path = home / total.hexdigest()[:16]
    if not path.exists():
        draft = path.with_suffix(".draft")
        draft.mkdir(parents=True, exist_ok=True)
        for name, table in tables.items():
            np.savez(draft / f"{name}.npz", **table)  # type: ignore[arg-type]
        draft.replace(path)
    counts = {name: len(table["label"]) for name, table in tables.items()}
    return Rows(path, total.hexdigest(), counts["train"], counts["test"], num_items + 1)


def impressions(sequences: EventSequences, code: int, *, length: int) -> dict[str, NDArray[np.int32]]:
    """What `UserWindows` shows of every event of a split, told without timestamps, in event order.

    Returns:
        By column:

        - `user` [n] index of the user, to group by and not to learn from.
        - `label` [n] 0 or 1.
        - `target` [n] item, from 1.
        - `known` [n] whether the target is an item of the train split.
        - `history` [n, L] items of the last events that are strictly earlier in time, oldest first, 0 where there is
          none.
        - `mark` [n, L] 1 for a skipped, 2 for a clicked event of `history`, 0 where there is none.
        - `clicked`, `skipped` [n, L]: `history` with 0 in place of the events of the other kind.
        - `rate` [n] bucket of the smoothed click rate of the history, below `RATE_BUCKETS`.
        - `seen` [n] events in the history, up to `L`.
        - `gap` [n] log2 of the seconds since the history's last event, 0 without one.
    """
    offsets = np.asarray(sequences.offsets, np.int64)
    item, label, time, split = (
        np.asarray(values, np.int64)
        for values in (sequences.item_idx, sequences.label, sequences.timestamp, sequences.split)
    )
    target = np.flatnonzero(split == code)
    user = np.searchsorted(offsets, target, side="right") - 1
    end = _earlier(offsets, time)[target]
    place = end[:, None] + np.arange(-length, 0)
    real = place >= offsets[user][:, None]
    place = np.where(real, place, 0)
    history, was_clicked = np.where(real, item[place], 0), real & (label[place] == 1)
    seen = real.sum(1)
    rate = (was_clicked.sum(1) + PRIOR_EVENTS / 2) / (seen + PRIOR_EVENTS)
    gap = np.where(seen > 0, time[target] - time[np.maximum(end - 1, 0)], 0)
    columns = {
        "user": user,
        "label": label[target],
        "target": item[target],
        "known": np.isin(item[target], item[split == TRAIN]),
        "history": history,
        "mark": real * (1 + was_clicked),
        "clicked": np.where(was_clicked, history, 0),
        "skipped": np.where(was_clicked, 0, history),
        "rate": np.floor(rate * RATE_BUCKETS),
        "seen": seen,
        "gap": np.frexp(gap.astype(np.float64))[1],
    }
    return {name: values.astype(np.int32) for name, values in columns.items()}


def _earlier(offsets: NDArray[np.int64], time: NDArray[np.int64]) -> NDArray[np.int64]:
    """Per event, the end of its user's events that are strictly earlier."""
    ends = [np.searchsorted(time[start:stop], time[start:stop]) + start for start, stop in pairwise(offsets)]
    return np.concatenate(ends) if ends else np.zeros(0, np.int64)
