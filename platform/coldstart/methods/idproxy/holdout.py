"""Splits mature items into those that coarse alignment trains on and those it is evaluated on."""

import numpy as np
from numpy.typing import NDArray

from coldstart.config.recipe import Coarse

MAX_HELD_OUT = 1024
"""Upper bound of held-out items: more would slow down every evaluation and add little precision."""


def split_holdout(
    mature: NDArray[np.integer], settings: Coarse, *, seed: int
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Random split of mature items [m] into train and held-out items; the same for every call with one seed."""
    shuffled = np.random.default_rng((seed, 1)).permutation(mature)
    held_out = min(round(settings.holdout_fraction * len(mature)), MAX_HELD_OUT)
    return shuffled[: len(mature) - held_out], shuffled[len(mature) - held_out :]
