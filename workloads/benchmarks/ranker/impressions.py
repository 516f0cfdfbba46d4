"""A dataset's impressions in the format of other CTR libraries: one row per impression, with its history.

Legend: `n` impressions, `L` history.
"""

import hashlib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coldstart.data.batches import EventSequences
from coldstart.data.schema import SPLITS, TRAIN

PRIOR_EVENTS = 2.0
"""Number of prior events with click rate 1/2 that smooth the rate of a short history."""
RATE_BUCKETS = 20


@dataclass(frozen=True)
class ImpressionFiles:
    """`train.npz`, `valid.npz` and `test.npz` in a directory, uncompressed.

    Attributes:
        path: The directory.
        digest: Hash of the content.
        train: Impressions in the train split.
        test: Impressions in the test split.
        vocab_size: Items + 1; 0 is padding.
    """

    path: Path
    digest: str
    train: int
    test: int
    vocab_size: int


def write_impressions(sequences: EventSequences, num_items: int, home: Path, *, length: int) -> ImpressionFiles:
    """Writes a dataset's impressions into `home/<digest>` unless it exists.

    Args:
        sequences: Events of all users.
        num_items: Items of the catalog.
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
    return ImpressionFiles(path, total.hexdigest(), counts["train"], counts["test"], num_items + 1)


def impressions(sequences: EventSequences, code: int, *, length: int) -> dict[str, NDArray[np.int32]]:
    """Inputs of `UserWindows` for every event of a split, without timestamps, in event order.

    Returns:
        By column:

        - `user` [n] index of the user, for grouping only, not an input.
        - `label` [n] 0 or 1.
        - `target` [n] item, from 1.
        - `known` [n] whether the target item has events in the train split.
        - `history` [n, L] items of the last events that are strictly earlier in time, oldest first; 0 is padding.
        - `mark` [n, L] 1 for a skipped, 2 for a clicked event of `history`; 0 is padding.
        - `clicked`, `skipped` [n, L]: `history` with 0 for events of the other kind.
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
    end = _end_of_earlier(offsets, time)[target]
    position = end[:, None] + np.arange(-length, 0)
    real = position >= offsets[user][:, None]
    position = np.where(real, position, 0)
    history, was_clicked = np.where(real, item[position], 0), real & (label[position] == 1)
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


def _end_of_earlier(offsets: NDArray[np.int64], time: NDArray[np.int64]) -> NDArray[np.int64]:
    """Per event, the end index of its user's strictly earlier events."""
    ends = [np.searchsorted(time[start:stop], time[start:stop]) + start for start, stop in pairwise(offsets)]
    return np.concatenate(ends) if ends else np.zeros(0, np.int64)
