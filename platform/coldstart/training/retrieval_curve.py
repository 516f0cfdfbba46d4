"""Retrieval of held-out pairs over the epochs of a contrastive training, the first point before it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

_SCORE = "_mean_reciprocal_rank"


def best_epoch(curve: Sequence[dict[str, float]]) -> int:
    """The epoch with the highest mean reciprocal rank; 0 for the weights before training.

    Training must beat these by more than a standard error: pairs that say nothing about content teach an encoder to
    map all items to one vector, and noise must not choose that. Without held-out pairs, the last epoch.

    Args:
        curve: Retrieval before training and after each epoch.
    """
    if not curve[0]:
        return len(curve) - 1
    primary = next(name for name in reversed(curve[0]) if name.endswith(_SCORE))
    scores = [point[primary] for point in curve]
    best = int(np.argmax(scores))
    needed = scores[0] + curve[0][primary.removesuffix(_SCORE) + "_reciprocal_rank_error"]
    return best if scores[best] > needed else 0


def before_and_after(curve: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Retrieval before training and at the best epoch, for a manifest; empty without held-out pairs.

    Args:
        curve: From `ContrastiveTrainer.run`.
    """
    if not curve or not curve[0]:
        return {}
    best = best_epoch(curve)
    return {
        "before": {name: round(value, 5) for name, value in curve[0].items()},
        "after": {name: round(value, 5) for name, value in curve[best].items()},
        "best_epoch": best,
    }
