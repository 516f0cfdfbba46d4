"""Co-click pairs: a trigger and a target that the same users clicked within a time window, from train events only.

A user who clicked `n` items has weight `1 / n`, so that heavy users do not dominate (item-to-item collaborative
filtering). The triggers are processed in partitions by a hash: memory depends on the pairs of one partition, not on the
catalog. Weights are fixed-point numbers, whose sums depend neither on the partitions nor on the order of the users.

SaviorRec (arXiv:2508.01375) learns from co-clicked pairs **[T]**. How it mines them is not published, so window,
weights and scores are ours **[I]**.

Legend: `U` users, `E` clicks, `V` vocabulary (items + 1; row 0 is OOV), `P` pairs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import sparse

from coldstart.config import UserError
from coldstart.config.recipe import Pairs
from coldstart.data.batches import EventSequences
from coldstart.data.schema import TRAIN

Ints = npt.NDArray[np.int64]
FILE = "pairs.parquet"
ONE = 2**32
"""Weight 1 as a fixed-point number. Sums of 2^31 users fit into 63 bits."""
CO_CLICKS_PER_PARTITION = 2**24
"""Co-clicks in memory at a time, about 1 GB with the copies of a sort."""
MAX_SWING_USERS = 300
"""Users per trigger in `swing`, the ones with the lowest hash; its work grows with their square."""


@dataclass(frozen=True)
class CoClickPairs:
    """Pairs by ascending trigger, and by descending score within a trigger.

    Attributes:
        trigger: [P] int32 item indices.
        target: [P] int32 item indices; never the trigger.
        score: [P] float32.
        users: [P] int32 number of users who clicked both within the window.
    """

    trigger: npt.NDArray[np.int32]
    target: npt.NDArray[np.int32]
    score: npt.NDArray[np.float32]
    users: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.trigger)

    def write(self, directory: Path) -> None:
        """Writes them into an existing directory."""
        pq.write_table(pa.table({name: pa.array(values) for name, values in vars(self).items()}), directory / FILE)

    @classmethod
    def read(cls, directory: Path) -> "CoClickPairs":
        """Reads them from a directory.

        Raises:
            UserError: it has none.
        """
        file = directory / FILE
        if not file.is_file():
            raise UserError(f"no pairs at {directory}: {FILE} is missing; run the mine_pairs stage first")
        table = pq.read_table(file)
        return cls(**{name: table[name].to_numpy() for name in table.column_names})


def mine_pairs(
    sequences: EventSequences,
    num_items: int,
    settings: Pairs,
    *,
    co_clicks_per_partition: int = CO_CLICKS_PER_PARTITION,
) -> CoClickPairs:
    """Mines the pairs of all triggers.

    Args:
        sequences: Events of all users; only clicks of the train split are read.
        num_items: Items of the catalog.
        settings: Window, score and number of targets.
        co_clicks_per_partition: Bounds the memory; does not change the result.

    Raises:
        UserError: no two train clicks of a user form a pair.
    """
    clicks = _Clicks.of(sequences, settings)
    partitions = -(-clicks.num_neighbors // co_clicks_per_partition)
    found = [
        _best(_co_clicks(clicks, partition, partitions, co_clicks_per_partition), clicks, num_items, settings)
        for partition in range(partitions)
    ]
    if not sum(map(len, found)):
        raise UserError(
            f"no user has train clicks on two items within the pairs' window_s {settings.window_s} seconds; raise "
            "it, or use data with several clicks per user"
        )
    columns = {name: np.concatenate([getattr(part, name) for part in found]) for name in CoClickPairs.__annotations__}
    order = np.argsort(columns["trigger"], kind="stable")  # A trigger is in one partition, in order of its scores.
    return CoClickPairs(**{name: values[order] for name, values in columns.items()})


def pairs_report(pairs: CoClickPairs, train_counts: npt.NDArray[np.integer[Any]]) -> dict[str, Any]:
    """How far the pairs reach.

    Args:
        pairs: The pairs.
        train_counts: [V] train events of each item.

    Returns:
        Number of pairs, of triggers, pairs per trigger, and by slice the share of items without any pair. Cold items
        have none: a pair needs train clicks.
    """
    has_pair = np.zeros(len(train_counts), bool)
    has_pair[pairs.trigger] = has_pair[pairs.target] = True
    edges = {"cold": (0, 1), "few": (1, 10), "mid": (10, 100), "warm": (100, np.inf)}
    without: dict[str, float | None] = {}
    for name, (low, high) in edges.items():
        members = (train_counts[1:] >= low) & (train_counts[1:] < high)
        without[name] = round(float(1 - has_pair[1:][members].mean()), 5) if members.any() else None
    triggers = len(np.unique(pairs.trigger))
    return {
        "pairs": len(pairs),
        "triggers": triggers,
        "pairs_per_trigger": round(len(pairs) / max(triggers, 1), 2),
        "items_with_pairs": int(has_pair.sum()),
        "share_without_pairs": without,
    }


@dataclass(frozen=True)
class _Clicks:
    """Train clicks by user and time.

    Attributes:
        item: [E].
        user: [E] row of the user among those with clicks.
        first, last: [E] the clicks within the window of each click are `first` to `last`, itself included.
        clicked: [U] clicks of each user.
    """

    item: Ints
    user: Ints
    first: Ints
    last: Ints
    clicked: Ints

    @classmethod
    def of(cls, sequences: EventSequences, settings: Pairs) -> "_Clicks":
        offsets = np.asarray(sequences.offsets, np.int64)
        rows = np.flatnonzero((np.asarray(sequences.label) > 0) & (np.asarray(sequences.split) == TRAIN))
        user = np.searchsorted(offsets, rows, side="right") - 1
        # Position from the end of the user's clicks.
        after = np.searchsorted(user, user, side="right") - np.arange(len(rows))
        rows, user = (values[after <= settings.max_clicks_per_user] for values in (rows, user))
        user = np.unique(user, return_inverse=True)[1].astype(np.int64)
        time = np.asarray(sequences.timestamp, np.int64)[rows]
        first, last = _windows(user, time, settings.window_s)
        return cls(np.asarray(sequences.item_idx, np.int64)[rows], user, first, last, np.bincount(user))

    @property
    def num_neighbors(self) -> int:
        return int((self.last - self.first).sum())

    @property
    def weight(self) -> Ints:
        """[U] fixed-point weights."""
        return ONE // self.clicked


def _windows(user: Ints, time: Ints, window: int) -> tuple[Ints, Ints]:
    """Per click, the first click of the same user within the window, and the one after the last."""
    if not len(time):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    span = int(time.max() - time.min())
    window = min(window, span)
    # Users are further apart than a window on one common axis, so one search serves all of them.
    place = user * (span + window + 1) + (time - time.min())
    return np.searchsorted(place, place - window), np.searchsorted(place, place + window, side="right")


def _co_clicks(clicks: _Clicks, partition: int, partitions: int, per_chunk: int) -> Iterator[tuple[Ints, Ints, Ints]]:
    """Trigger, target and user of the co-clicks of a partition's triggers, each once per user, by whole users."""
    own = np.flatnonzero(_hash(clicks.item) % np.uint64(partitions) == partition)
    sizes = (clicks.last - clicks.first)[own]
    starts = np.flatnonzero(np.diff(clicks.user[own], prepend=-1))
    before = np.concatenate([[0], np.cumsum(sizes)])
    # A chunk ends with the user that fills it.
    bounds = np.append(starts, len(own))
    chunk_of_user = before[bounds[:-1]] // per_chunk
    chunk_starts = np.append(starts[np.flatnonzero(np.diff(chunk_of_user, prepend=-1))], len(own))
    for begin, end in pairwise(chunk_starts):
        anchor = np.repeat(own[begin:end], sizes[begin:end])
        within = np.arange(before[begin], before[end]) - np.repeat(before[begin:end], sizes[begin:end])
        partner = clicks.first[anchor] + within
        trigger, target, user = clicks.item[anchor], clicks.item[partner], clicks.user[anchor]
        kept = np.flatnonzero(trigger != target)
        order = kept[np.lexsort((target[kept], trigger[kept], user[kept]))]
        repeated = np.zeros(len(order), bool)
        repeated[1:] = np.all([np.diff(values[order]) == 0 for values in (user, trigger, target)], axis=0)
        order = order[~repeated]
        yield trigger[order], target[order], user[order]


def _best(chunks: Iterator[tuple[Ints, Ints, Ints]], clicks: _Clicks, num_items: int, settings: Pairs) -> CoClickPairs:
    """The pairs with the highest scores of each trigger of a partition."""
    score_of = _lift if settings.score == "lift" else _swing
    trigger, target, users, score = score_of(chunks, clicks, num_items + 1, settings)
    order = np.lexsort((target, -score, trigger))
    starts = np.flatnonzero(np.diff(trigger[order], prepend=-1))
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    kept = order[rank < settings.max_per_trigger]
    return CoClickPairs(
        trigger[kept].astype(np.int32),
        target[kept].astype(np.int32),
        score[kept].astype(np.float32),
        users[kept].astype(np.int32),
    )


Scored = tuple[Ints, Ints, Ints, npt.NDArray[np.float64]]
"""Trigger, target, number of users, score."""


def _lift(chunks: Iterator[tuple[Ints, Ints, Ints]], clicks: _Clicks, vocabulary: int, settings: Pairs) -> Scored:
    """Smoothed lift: weight of the users of both items x weight of all users / product of the items' weights."""
    keys, sums = np.zeros(0, np.int64), np.zeros((2, 0), np.int64)
    for trigger, target, user in chunks:
        values = np.stack([clicks.weight[user], np.ones(len(user), np.int64)])
        keys, sums = _sum_by(
            np.concatenate([keys, trigger * vocabulary + target]), np.concatenate([sums, values], axis=1)
        )
    trigger, target = np.divmod(keys, vocabulary)
    mean = clicks.weight.mean()
    both, of_items = sums[0] / mean, _weight_of_items(clicks, vocabulary) / mean + settings.lift_smoothing
    return trigger, target, sums[1], both * len(clicks.weight) / (of_items[trigger] * of_items[target])


def _weight_of_items(clicks: _Clicks, vocabulary: int) -> Ints:
    """[V] weight of the users who clicked each item."""
    pairs = np.unique(clicks.user * vocabulary + clicks.item)
    user, item = np.divmod(pairs, vocabulary)
    items, sums = _sum_by(item, clicks.weight[user][None])
    total = np.zeros(vocabulary, np.int64)
    total[items] = sums[0]
    return total


def _swing(chunks: Iterator[tuple[Ints, Ints, Ints]], clicks: _Clicks, vocabulary: int, settings: Pairs) -> Scored:
    """Swing (Yang et al. 2020, arXiv:2010.05525 **[R]**): pairs of users around a trigger who share the target.

    The items of a user are those within the window of the trigger, and the trigger itself. A pair of users weighs
    `1 / sqrt(n_u n_v)` over `alpha` plus the number of items in common. Users who are alone with a target count
    nothing, so the target is left out.
    """
    parts = list(chunks)
    if not parts:
        empty = np.zeros(0, np.int64)
        return empty, empty, empty, np.zeros(0)
    trigger, target, user = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.argsort(trigger, kind="stable")
    bounds = np.append(np.flatnonzero(np.diff(trigger[order], prepend=-1)), len(order))
    found: list[Scored] = []
    for begin, end in pairwise(bounds):
        rows = order[begin:end]
        users, row = np.unique(user[rows], return_inverse=True)
        if len(users) > MAX_SWING_USERS:
            chosen = np.argsort(_hash(users), kind="stable")[:MAX_SWING_USERS]
            rows = rows[np.isin(row, chosen)]
            users, row = np.unique(user[rows], return_inverse=True)
        items, column = np.unique(target[rows], return_inverse=True)
        clicked = sparse.csr_array((np.ones(len(rows)), (row, column)), shape=(len(users), len(items)))
        weight = 1 / np.sqrt(clicks.clicked[users])
        pairs = np.outer(weight, weight) / (settings.swing_alpha + 1 + (clicked @ clicked.T).toarray())
        np.fill_diagonal(pairs, 0)
        score = clicked.multiply(clicked.T.dot(pairs).T).sum(0) / 2
        shared = np.flatnonzero(score > 0)
        found.append(
            (
                np.full(len(shared), trigger[rows[0]]),
                items[shared],
                np.bincount(column)[shared],
                np.asarray(score)[shared],
            )
        )
    first, second, counts, scores = (np.concatenate(columns) for columns in zip(*found, strict=True))
    return first, second, counts, scores


def _sum_by(keys: Ints, values: Ints) -> tuple[Ints, Ints]:
    """Ascending unique keys, and the exact sums `[r, n]` of `values` `[r, len(keys)]` for each."""
    if not len(keys):
        return keys, values
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.diff(keys[order], prepend=keys[order[0]] - 1))
    return keys[order[starts]], np.add.reduceat(values[:, order], starts, axis=1)


def _hash(numbers: Ints) -> npt.NDArray[np.uint64]:
    """Well-mixed hashes (splitmix64), so that partitions have about equal sizes."""
    x = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
