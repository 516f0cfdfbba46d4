"""Which cold items the proxy serves better than the OOV row does, and which worse.

An item's gain is the mean fall in log loss over its rows, shrunk by how few they are.

Legend: `n` rows, `m` items.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coldstart.evaluation.metrics import losses, sigmoid
from coldstart.evaluation.shrinkage import shrunk

MIN_ROWS = 20
"""Rows that an item needs to be listed, or counted among those that gain."""


@dataclass(frozen=True)
class ItemGains:
    """Items with at least MIN_ROWS rows, by falling gain, `[m]` each.

    Attributes:
        item: Item indices.
        rows: Evaluated rows of the item.
        observed: Click rate of these rows.
        before: Mean click probability from the OOV row.
        after: Mean click probability from the proxy.
        gain: Shrunk fall in log loss per row, in nats; below zero is a loss.
        mean: Fall in log loss over all rows, those of items left out too.
        left_out: Items with fewer rows.
    """

    item: NDArray[np.int64]
    rows: NDArray[np.int64]
    observed: NDArray[np.float64]
    before: NDArray[np.float64]
    after: NDArray[np.float64]
    gain: NDArray[np.float64]
    mean: float
    left_out: int

    @property
    def better(self) -> float:
        """Share of the items that gain; NaN without items."""
        return float((self.gain > 0).mean()) if len(self.gain) else float("nan")


def item_gains(
    item: NDArray[np.integer], label: NDArray[np.integer], before: NDArray[np.floating], after: NDArray[np.floating]
) -> ItemGains:
    """Compares two logits of the same rows, `[n]` each, item by item."""
    items, of = np.unique(item, return_inverse=True)
    p_before, p_after = sigmoid(before), sigmoid(after)
    fell = losses(label, p_before) - losses(label, p_after)

    def total(values: NDArray[Any] | None = None) -> NDArray[np.float64]:
        return np.bincount(of, weights=values, minlength=len(items)).astype(np.float64)

    rows = total().astype(np.int64)
    mean = total(fell) / np.maximum(rows, 1)
    freedom = len(item) - len(items)
    within = float(np.sum((fell - mean[of]) ** 2) / freedom) if freedom > 0 else 0.0
    gain = shrunk(total(fell), rows, within)
    enough = np.flatnonzero(rows >= MIN_ROWS)
    order = enough[np.argsort(-gain[enough], kind="stable")]
    return ItemGains(
        item=items[order].astype(np.int64),
        rows=rows[order],
        observed=(total(label) / np.maximum(rows, 1))[order],
        before=(total(p_before) / np.maximum(rows, 1))[order],
        after=(total(p_after) / np.maximum(rows, 1))[order],
        gain=gain[order],
        mean=float(fell.mean()) if len(fell) else float("nan"),
        left_out=int(len(items) - len(enough)),
    )
