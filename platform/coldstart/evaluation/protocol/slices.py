"""Slices: named subsets of evaluation rows, by train events of the item and by its age."""

import numpy as np
from numpy.typing import NDArray

RANGES: dict[str, tuple[int, int | None]] = {
    "all": (0, None),
    "cold": (0, 1),
    "few": (1, 10),
    "mid": (10, 100),
    "warm": (100, None),
}
"""Slice name -> train events of the item, from (inclusive) to (exclusive; `None` is no bound)."""
FRESH_S = 24 * 3600
"""Age below which an item is fresh, in seconds (IDProxy's definition of a cold note)."""
SLICES = (*RANGES, "fresh")


def slices(train_events: NDArray[np.integer], age_s: NDArray[np.floating]) -> dict[str, NDArray[np.bool_]]:
    """Slice name -> mask of its rows.

    Args:
        train_events: [n] train events of each row's item.
        age_s: [n] seconds from the item's publication to the row's event; NaN if unknown, which is not fresh.
    """
    found = {
        name: (train_events >= low) & (True if high is None else train_events < high)
        for name, (low, high) in RANGES.items()
    }
    return found | {"fresh": age_s < FRESH_S}


def describe(name: str) -> str:
    """Describes a slice for people."""
    if name == "fresh":
        return f"items younger than {FRESH_S // 3600} hours at the event"
    low, high = RANGES[name]
    if high is None:
        return f"items with at least {low} train events" if low else "all evaluated rows"
    return "items never seen in training" if high == 1 else f"items with {low} to {high - 1} train events"


def warm_up_edges(train_clicks: NDArray[np.integer]) -> tuple[int, ...]:
    """Lower edges of the bins of the warm-up curve, two per decade: 0, 1, 3, 10, 30, ... up to the maximum.

    Args:
        train_clicks: [items] train clicks of each item.
    """
    maximum = int(train_clicks.max(initial=0))
    edges = [0, *(step * 10**decade for decade in range(len(str(maximum))) for step in (1, 3))]
    return tuple(edge for edge in edges if edge <= maximum)
