"""Gains of single cold items: where the proxy predicts better than the OOV row, and where worse.

An item's gain is the mean decrease of log loss over its rows, shrunk more if it has fewer rows.

Legend: `n` rows, `m` items.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coldstart.evaluation.inference.shrinkage import shrink_means
from coldstart.metrics.clicks import losses, sigmoid

MIN_ROWS = 20
"""Items with fewer rows are not listed and not counted."""


@dataclass(frozen=True)
class ItemGains:
    """Items with at least MIN_ROWS rows, `[m]` each, highest gain first.

    Attributes:
        item: Item indices.
        rows: Number of evaluated rows of the item.
        observed: Click rate of these rows.
        before: Mean click probability from the OOV row.
        after: Mean click probability from the proxy.
        gain: Shrunk decrease of log loss per row, in nats; negative if the proxy is worse.
        mean: Mean decrease of log loss over all rows, including those of items left out.
        left_out: Number of items with fewer rows.
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
    def improved_fraction(self) -> float:
        """Share of the items with a positive gain; NaN without items."""
        return float((self.gain > 0).mean()) if len(self.gain) else float("nan")


def item_gains(
    item: NDArray[np.integer], label: NDArray[np.integer], before: NDArray[np.floating], after: NDArray[np.floating]
) -> ItemGains:
    """Compares two logits of the same rows, `[n]` each, by item."""
    items, of = np.unique(item, return_inverse=True)
    p_before, p_after = sigmoid(before), sigmoid(after)
    decrease = losses(label, p_before) - losses(label, p_after)

    def total(values: NDArray[Any] | None = None) -> NDArray[np.float64]:
        return np.bincount(of, weights=values, minlength=len(items)).astype(np.float64)

    rows = total().astype(np.int64)
    mean = total(decrease) / np.maximum(rows, 1)
    freedom = len(item) - len(items)
    within = float(np.sum((decrease - mean[of]) ** 2) / freedom) if freedom > 0 else 0.0
    gain = shrink_means(total(decrease), rows, within)
    enough = np.flatnonzero(rows >= MIN_ROWS)
    order = enough[np.argsort(-gain[enough], kind="stable")]
    return ItemGains(
        item=items[order].astype(np.int64),
        rows=rows[order],
        observed=(total(label) / np.maximum(rows, 1))[order],
        before=(total(p_before) / np.maximum(rows, 1))[order],
        after=(total(p_after) / np.maximum(rows, 1))[order],
        gain=gain[order],
        mean=float(decrease.mean()) if len(decrease) else float("nan"),
        left_out=int(len(items) - len(enough)),
    )
