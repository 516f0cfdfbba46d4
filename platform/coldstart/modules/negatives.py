"""Candidate ID rows of a training step: those of its batch, and negatives drawn from the ID table.

No queue of past encodings (MoCo) is needed: ID rows are frozen, so the table itself holds every negative, and none of
them is stale. The draw is a function of (seed, step), so all ranks draw the same rows and a resumed run needs no state.
"""

import numpy as np
from numpy.typing import NDArray

from coldstart.config.recipe import Negatives


class NegativeSampler:
    """Draws the candidates of a step.

    Attributes:
        log_q: `[V]` logarithm of each item's expected count among the candidates of a step, by item index; None if
            the recipe does not enable the correction.
    """

    def __init__(
        self, settings: Negatives, items: NDArray[np.int64], events: NDArray[np.integer], *, batch: int, seed: int
    ) -> None:
        """Prepares the sampling distribution.

        Args:
            settings: Number of negatives and their distribution.
            items: `[M]` indices of the train items; batches draw them with equal probability.
            events: `[V]` train events by item index.
            batch: Items per step.
            seed: Seed of the draws.
        """
        self._settings, self._items, self._seed = settings, items, seed
        weights = events[items].astype(np.float64) ** settings.popularity
        self._cumulative = np.cumsum(weights / weights.sum())
        self.log_q: NDArray[np.float64] | None = None
        if settings.log_q and settings.num_sampled != "all":
            self.log_q = np.zeros(len(events))
            self.log_q[items] = np.log(batch / len(items) + settings.num_sampled * weights / weights.sum())

    def candidates(self, step: int, batch: NDArray[np.int64]) -> NDArray[np.int64]:
        """Item indices `[C]` of the candidate rows for a step's batch `[B]`, batch included."""
        if self._settings.num_sampled == "all":
            return self._items
        if not self._settings.num_sampled:
            return batch
        drawn = np.random.default_rng((self._seed, 3, step)).random(self._settings.num_sampled)
        positions = np.searchsorted(self._cumulative, drawn, side="right").clip(max=len(self._items) - 1)
        return np.concatenate([batch, self._items[positions]])
