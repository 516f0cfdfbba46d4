"""Slices: named subsets of evaluation rows by how much training saw of the row's item."""

import numpy as np
from numpy.typing import NDArray

RANGES: dict[str, tuple[int, int | None]] = {
    "all": (0, None),
    "cold": (0, 1),
    "few": (1, 10),
    "mid": (10, 100),
    "warm": (100, None),
}
"""Slice name -> train events of the item, from (inclusive) to (exclusive, `None` is no bound)."""


def slices(train_events: NDArray[np.integer]) -> dict[str, NDArray[np.bool_]]:
    """Slice name -> which rows belong to it.

    Args:
        train_events: [n] train events of each row's item.
    """
    return {
        name: (train_events >= low) & (True if high is None else train_events < high)
        for name, (low, high) in RANGES.items()
    }


def meaning(name: str) -> str:
    """What a slice holds, for people."""
    low, high = RANGES[name]
    if high is None:
        return f"items with at least {low} train events" if low else "all evaluated rows"
    return "items never seen in training" if high == 1 else f"items with {low} to {high - 1} train events"
