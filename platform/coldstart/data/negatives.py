"""Negatives for logs that have clicks only: items that a user could have clicked at that moment and did not.

A negative of a click is drawn among the items that anybody clicked about that time, in the same split, so that training
sees no item of the test period, and new items are negatives as well as clicks. The items that the user clicked, at any
time, are left out.

Legend: `n` clicks of some users, `N` clicks of all users.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from coldstart.config.recipe import DrawnNegatives

Ints = NDArray[np.int64]
ATTEMPTS = 8
"""Draws for each negative; a user who clicked almost everything gets fewer negatives."""


@dataclass(frozen=True)
class ClickPool:
    """The clicks of all users, from which negatives are drawn.

    Attributes:
        timestamp: [N] Unix seconds, ascending within a split.
        item_idx: [N].
        bounds: Split code -> first and last position of its clicks.
    """

    timestamp: Ints
    item_idx: Ints
    bounds: dict[int, tuple[int, int]]

    @classmethod
    def of(cls, clicks: pa.Table, settings: DrawnNegatives) -> "ClickPool":
        """The pool of clicks with timestamp, item_idx and split.

        With `by: uniform`, every item is there once per split and time window, so that popular ones do not count more.
        """
        split, when, item = (np.asarray(clicks[name]).astype(np.int64) for name in ("split", "timestamp", "item_idx"))
        order = np.lexsort((item, when, split))
        if settings.by == "uniform":
            keys = np.stack([split, when // settings.window_s, item], axis=1)[order]
            order = order[np.sort(np.unique(keys, axis=0, return_index=True)[1])]
        split, when, item = split[order], when[order], item[order]
        codes = np.unique(split)
        first, last = np.searchsorted(split, codes), np.searchsorted(split, codes, side="right")
        bounds = {int(code): (int(a), int(b)) for code, a, b in zip(codes, first, last, strict=True)}
        return cls(when, item, bounds)

    def draw(self, split: Ints, timestamp: Ints, window_s: int, rng: np.random.Generator) -> Ints:
        """[n] items that somebody clicked within `window_s` seconds of each time, in the same split."""
        found = np.zeros(len(split), np.int64)
        for code, (first, last) in self.bounds.items():
            rows = np.flatnonzero(split == code)
            times = self.timestamp[first:last]
            low = np.searchsorted(times, timestamp[rows] - window_s)
            high = np.searchsorted(times, timestamp[rows] + window_s, side="right")
            found[rows] = self.item_idx[first + low + (rng.random(len(rows)) * (high - low)).astype(np.int64)]
        return found


def add_negatives(events: pa.Table, pool: ClickPool, settings: DrawnNegatives, rng: np.random.Generator) -> pa.Table:
    """The clicks of some users, each followed by its negatives: the same row with another item, and label 0.

    Args:
        events: Ordered by user and time, with user_idx, item_idx, timestamp, split and label; all of these users'.
        pool: The clicks of all users.
        settings: How many, and from which items.
        rng: The same for the same users.
    """
    user, item, when, split = (
        np.asarray(events[name]).astype(np.int64) for name in ("user_idx", "item_idx", "timestamp", "split")
    )
    clicked = np.unique(_pairs(user, item))
    click = np.repeat(np.arange(len(events)), settings.per_click)
    drawn = np.zeros(len(click), np.int64)
    taken = np.zeros(0, np.int64)
    open_ = np.arange(len(click))
    for _ in range(ATTEMPTS):
        rows = click[open_]
        found = pool.draw(split[rows], when[rows], settings.window_s, rng)
        fresh = ~np.isin(_pairs(user[rows], found), clicked)
        # One click has an item once only, whether it was drawn now or before.
        keys = _pairs(rows, found)
        first = np.zeros(len(keys), bool)
        first[np.unique(keys, return_index=True)[1]] = True
        fresh &= first & ~np.isin(keys, taken)
        drawn[open_[fresh]] = found[fresh]
        taken = np.concatenate([taken, keys[fresh]])
        open_ = open_[~fresh]
    kept = drawn > 0
    source = np.concatenate([np.arange(len(events)), click[kept]])
    items = np.concatenate([item, drawn[kept]])
    label = np.concatenate([np.ones(len(events), np.int64), np.zeros(int(kept.sum()), np.int64)])
    order = np.lexsort((items, -label, source))
    expanded = events.take(source[order])
    for name, values in (("item_idx", items[order]), ("label", label[order])):
        place = expanded.column_names.index(name)
        expanded = expanded.set_column(place, name, pa.array(values).cast(events.schema.field(name).type))
    return expanded


def _pairs(first: Ints, second: Ints) -> Ints:
    """One number for each pair."""
    pairs: Ints = first * 2**31 + second
    return pairs
