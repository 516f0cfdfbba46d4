"""Which mature items coarse alignment learns from, and which it keeps out to be judged by."""

import numpy as np
from numpy.typing import NDArray

from coldstart.config.recipe import Coarse

MOST = 1024
"""Items kept out: more would cost time at every look and say little more."""


def split_mature(
    mature: NDArray[np.integer], settings: Coarse, *, seed: int
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Mature items [m] as those that are aligned and those that are kept out, in no order; the same at every call."""
    shuffled = np.random.default_rng((seed, 1)).permutation(mature)
    kept_out = min(round(settings.holdout * len(mature)), MOST)
    return shuffled[: len(mature) - kept_out], shuffled[len(mature) - kept_out :]
