"""GAUC of all scores of a group of rows, on the same resamples of users and of items.

Users are resampled exactly: GAUC is a ratio of sums over users. Resampling items changes the pairs within every user;
it is done to first order, by each item's influence on GAUC (infinitesimal jackknife, Efron 1982), so that only one sum
per item is needed. `both` puts the two together: deviations are added and brought to the variance of two-way clustered
errors, users + items - rows (Cameron, Gelbach, Miller 2011), for a row's own noise is in both.

Legend: `M` scores, `u` users, `i` items, `R` resamples.
"""

import math
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from coldstart.config.recipe import Evaluation
from coldstart.evaluation.intervals import Interval, draw_counts, interval, resample
from coldstart.evaluation.measured import Ranks

Draws = NDArray[np.float64]
NOT_DEFINED = Interval(math.nan, math.nan, math.nan)


class Over(Enum):
    """What is resampled."""

    USERS = "users"
    ITEMS = "items"
    BOTH = "both"


class Resampled:
    """Figures and intervals of one group of rows; a score is named by its place in the protocol.

    Args:
        ranks: Of the group.
        settings: Resamples and confidence.
        seed: Of the draws.

    Attributes:
        users: Users with both classes.
        items: Items in their rows.
        gauc: [M].
    """

    def __init__(self, ranks: Ranks, settings: Evaluation, seed: int) -> None:
        self.users, self.items = len(ranks.weight), len(ranks.item_rows)
        self.gauc = ranks.gauc
        self._confidence = settings.confidence
        self._product, self._rows = ranks.product, float(ranks.weight.sum())
        self._users = np.full((settings.bootstrap, len(self.gauc)), np.nan)
        self._items = self._users.copy()
        # One unit alone says nothing about the spread between units.
        if len(ranks.weight) > 1:
            self._users = resample(ranks.auc, ranks.weight, resamples=settings.bootstrap, seed=seed) - self.gauc
        if len(ranks.item_rows) > 1:
            influence = (ranks.pull - self.gauc[:, None] * ranks.item_rows) / self._rows
            parts = draw_counts(len(ranks.item_rows), resamples=settings.bootstrap, seed=[seed, 1])
            self._items = np.concatenate([counts @ influence.T for counts in parts])

    def single(self, score: int, over: Over = Over.USERS) -> Interval:
        """GAUC of a score."""
        return self._interval(float(self.gauc[score]), self.draws(score, over=over))

    def difference(self, score: int, other: int, over: Over = Over.USERS) -> Interval:
        """How much better a score is than another."""
        return self._interval(self._above(score, other), self.draws(score, other, over=over))

    def share(self, part: tuple[int, int], whole: tuple[int, int]) -> Interval:
        """The difference `part` as a share of the difference `whole`; not defined unless the whole is above zero."""
        if not self.difference(*whole).low > 0:
            return NOT_DEFINED
        return self._interval(self._above(*part) / self._above(*whole), self.draws(*part) / self.draws(*whole))

    def draws(self, score: int, other: int | None = None, *, over: Over = Over.USERS) -> Draws:
        """[R] GAUC of a score, or how much it is above another, on the resamples."""
        users, items = (self._deviation(side, score, other) for side in (self._users, self._items))
        value = self._above(score, other)
        if over is Over.USERS:
            return value + users
        if over is Over.ITEMS:
            return value + items
        by_user, by_item = float(users.var()), float(items.var())
        if not by_user + by_item > 0:
            return value + users + items
        together = max(by_user + by_item - self._row_variance(score, other), by_user, by_item)
        return value + (users + items) * math.sqrt(together / (by_user + by_item))

    def _above(self, score: int, other: int | None) -> float:
        return float(self.gauc[score] - (0 if other is None else self.gauc[other]))

    @staticmethod
    def _deviation(side: Draws, score: int, other: int | None) -> Draws:
        return np.asarray(side[:, score] - (0 if other is None else side[:, other]))

    def _row_variance(self, score: int, other: int | None) -> float:
        """Variance if rows were drawn one by one."""
        product = self._product
        squares = product[score, score]
        if other is not None:
            squares = squares + product[other, other] - 2 * product[score, other]
        return float(squares / self._rows - self._above(score, other) ** 2) / self._rows

    def _interval(self, value: float, draws: Draws) -> Interval:
        return interval(value, draws, confidence=self._confidence)
