"""What picture and words each contribute: proxies of the same items by the same adaptor, with the other left out.

Legend: `n` rows, `u` users, `K` readings, `R` resamples.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coldstart.config.recipe import Evaluation
from coldstart.evaluation.intervals import Interval, interval, resample
from coldstart.evaluation.metrics import rank_users
from coldstart.evaluation.protocol import DIGITS

WHOLE = "both"


def modalities(
    user: NDArray[np.integer],
    label: NDArray[np.integer],
    base: NDArray[np.floating],
    logits: Mapping[str, NDArray[np.floating]],
    settings: Evaluation,
    *,
    seed: int,
) -> dict[str, Any] | None:
    """Item GAUC of each reading, and what it lacks of the whole, on the same rows and resamples of users.

    Args:
        user: [n] users of rows of items that show picture and words.
        label: [n] 0 or 1.
        base: [n] logits of the OOV row.
        logits: Reading -> [n] logits; must hold WHOLE.
        settings: Resamples and confidence.
        seed: Of the resampling.

    Returns:
        `rows`, `users` and `readings`: reading -> `gain` over the OOV row and `lacks` of the whole, each with value,
        low and high. None where no user has both classes.
    """
    ranked = {name: rank_users(user, label, np.round(values - base, DIGITS)) for name, values in logits.items()}
    weight = ranked[WHOLE].weight
    if not len(weight):
        return None
    auc = np.stack([found.auc for found in ranked.values()])
    draws = resample(auc, weight, resamples=settings.bootstrap, seed=seed)
    whole = list(ranked).index(WHOLE)
    values = np.array([found.mean for found in ranked.values()])

    def figures(found: Interval) -> dict[str, float]:
        return {"value": found.value, "low": found.low, "high": found.high}

    return {
        "rows": len(label),
        "users": len(weight),
        "readings": {
            name: {
                "gain": figures(interval(values[k] - 0.5, draws[:, k] - 0.5, confidence=settings.confidence)),
                "lacks": figures(
                    interval(values[whole] - values[k], draws[:, whole] - draws[:, k], confidence=settings.confidence)
                ),
            }
            for k, name in enumerate(ranked)
        },
    }
