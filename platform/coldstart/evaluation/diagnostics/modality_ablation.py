"""Contribution of image and text: proxies of the same items by the same adaptor, with one of the two left out.

Legend: `n` rows, `u` users, `K` inputs, `R` resamples.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coldstart.config.recipe import Evaluation
from coldstart.evaluation.inference.intervals import Interval, interval, resample
from coldstart.evaluation.protocol.protocol import DIGITS
from coldstart.metrics.clicks import rank_users

BOTH = "both"


def modality_ablation(
    user: NDArray[np.integer],
    label: NDArray[np.integer],
    base: NDArray[np.floating],
    logits: Mapping[str, NDArray[np.floating]],
    settings: Evaluation,
    *,
    seed: int,
) -> dict[str, Any] | None:
    """Item GAUC with each input, and its drop from both inputs, on the same rows and resamples of users.

    Args:
        user: [n] users of the rows, whose items have image and text.
        label: [n] 0 or 1.
        base: [n] logits of the OOV row.
        logits: Input -> [n] logits; must include BOTH.
        settings: Resamples and confidence.
        seed: Of the resampling.

    Returns:
        `rows`, `users` and `inputs`: input -> `gain` over the OOV row and `drop` from both inputs, each with value,
        low and high. None if no user has both classes.
    """
    ranked = {name: rank_users(user, label, np.round(values - base, DIGITS)) for name, values in logits.items()}
    weight = ranked[BOTH].weight
    if not len(weight):
        return None
    auc = np.stack([found.auc for found in ranked.values()])
    draws = resample(auc, weight, resamples=settings.num_resamples, seed=seed)
    both = list(ranked).index(BOTH)
    values = np.array([found.mean for found in ranked.values()])

    def with_interval(found: Interval) -> dict[str, float]:
        return {"value": found.value, "low": found.low, "high": found.high}

    return {
        "rows": len(label),
        "users": len(weight),
        "inputs": {
            name: {
                "gain": with_interval(interval(values[k] - 0.5, draws[:, k] - 0.5, confidence=settings.confidence)),
                "drop": with_interval(
                    interval(values[both] - values[k], draws[:, both] - draws[:, k], confidence=settings.confidence)
                ),
            }
            for k, name in enumerate(ranked)
        },
    }
