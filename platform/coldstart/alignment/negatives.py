"""Which ID rows a step tells its items from: those of its batch, and those drawn from the ID table beside them.

Rows that other steps have seen need no queue (MoCo): a queue keeps past *encodings*, and an ID row is frozen, so the
table itself holds every past and future negative, none of them stale. Drawing is a function of (seed, step), so all
ranks draw alike and an interrupted run goes on without any state.
"""

import numpy as np
from numpy.typing import NDArray

from coldstart.config.recipe import Negatives


class NegativeSampler:
    """Draws the candidates of a step.

    Attributes:
        log_q: `[V]` logarithm of how often each item is expected among the candidates of a step, by item index; None
            where the recipe does not ask for the correction.
    """

    def __init__(
        self, settings: Negatives, items: NDArray[np.int64], events: NDArray[np.integer], *, batch: int, seed: int
    ) -> None:
        """Prepares to draw.

        Args:
            settings: How many, and how likely which.
            items: `[M]` indices of the items that are trained on; a batch draws them with equal probability.
            events: `[V]` train events by item index.
            batch: Items of a step.
            seed: Of the draws.
        """
        self._settings, self._items, self._seed = settings, items, seed
        weights = events[items].astype(np.float64) ** settings.popularity
        self._upto = np.cumsum(weights / weights.sum())
        self.log_q: NDArray[np.float64] | None = None
        if settings.log_q and settings.beside != "all":
            self.log_q = np.zeros(len(events))
            self.log_q[items] = np.log(batch / len(items) + settings.beside * weights / weights.sum())

    def candidates(self, step: int, batch: NDArray[np.int64]) -> NDArray[np.int64]:
        """Item indices `[C]` of the rows that the items of a step's batch `[B]` are told from."""
        if self._settings.beside == "all":
            return self._items
        if not self._settings.beside:
            return batch
        drawn = np.random.default_rng((self._seed, 3, step)).random(self._settings.beside)
        places = np.searchsorted(self._upto, drawn, side="right").clip(max=len(self._items) - 1)
        return np.concatenate([batch, self._items[places]])
