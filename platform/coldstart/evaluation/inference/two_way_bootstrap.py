"""GAUC of all scores of a group of rows, on the same resamples of users and of items.

Users are resampled exactly, since GAUC is a ratio of sums over users. Resampling items changes the pairs of every user;
it is approximated to first order by the influence of each item on GAUC (infinitesimal jackknife, Efron 1982), which
needs only one sum per item. `BOTH` adds the deviations of the two and scales them to the variance of two-way clustered
errors, users + items - rows (Cameron, Gelbach, Miller 2011), because the noise of single rows is in both.

Legend: `M` scores, `u` users, `i` items, `R` resamples.
"""

import math
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from coldstart.config.recipe import Evaluation
from coldstart.evaluation.inference.intervals import Interval, interval, resample, resample_counts
from coldstart.evaluation.protocol.partial_metrics import GroupRanking

Draws = NDArray[np.float64]
UNDEFINED = Interval(math.nan, math.nan, math.nan)


class ResampleUnit(Enum):
    """The units that are resampled."""

    USERS = "users"
    ITEMS = "items"
    BOTH = "both"


class TwoWayBootstrap:
    """Values and intervals for one group of rows. A score is given by its index in the protocol.

    Args:
        ranks: Ranking statistics of the group.
        settings: Resamples and confidence.
        seed: Of the draws.

    Attributes:
        users: Number of users with both classes.
        items: Number of items in their rows.
        gauc: [M].
    """

    def __init__(self, ranks: GroupRanking, settings: Evaluation, seed: int) -> None:
        self.users, self.items = len(ranks.weight), len(ranks.item_rows)
        self.gauc = ranks.gauc
        self._confidence = settings.confidence
        self._product, self._rows = ranks.gradient_products, float(ranks.weight.sum())
        self._users = np.full((settings.num_resamples, len(self.gauc)), np.nan)
        self._items = self._users.copy()
        # The spread between units needs at least two units.
        if len(ranks.weight) > 1:
            self._users = resample(ranks.auc, ranks.weight, resamples=settings.num_resamples, seed=seed) - self.gauc
        if len(ranks.item_rows) > 1:
            influence = (ranks.auc_gradient - self.gauc[:, None] * ranks.item_rows) / self._rows
            parts = resample_counts(len(ranks.item_rows), resamples=settings.num_resamples, seed=[seed, 1])
            self._items = np.concatenate([counts @ influence.T for counts in parts])

    def single(self, score: int, over: ResampleUnit = ResampleUnit.USERS) -> Interval:
        """GAUC of a score."""
        return self._interval(float(self.gauc[score]), self.draws(score, over=over))

    def difference(self, score: int, other: int, over: ResampleUnit = ResampleUnit.USERS) -> Interval:
        """GAUC of a score minus that of another."""
        return self._interval(self._value(score, other), self.draws(score, other, over=over))

    def share(self, part: tuple[int, int], whole: tuple[int, int]) -> Interval:
        """The difference `part` as a share of the difference `whole`; undefined unless `whole` is above zero."""
        if not self.difference(*whole).low > 0:
            return UNDEFINED
        return self._interval(self._value(*part) / self._value(*whole), self.draws(*part) / self.draws(*whole))

    def draws(self, score: int, other: int | None = None, *, over: ResampleUnit = ResampleUnit.USERS) -> Draws:
        """[R] GAUC of a score on the resamples, minus that of another if given."""
        users, items = (self._deviation(side, score, other) for side in (self._users, self._items))
        value = self._value(score, other)
        if over is ResampleUnit.USERS:
            return value + users
        if over is ResampleUnit.ITEMS:
            return value + items
        by_user, by_item = float(users.var()), float(items.var())
        if not by_user + by_item > 0:
            return value + users + items
        variance = max(by_user + by_item - self._row_variance(score, other), by_user, by_item)
        return value + (users + items) * math.sqrt(variance / (by_user + by_item))

    def _value(self, score: int, other: int | None) -> float:
        return float(self.gauc[score] - (0 if other is None else self.gauc[other]))

    @staticmethod
    def _deviation(side: Draws, score: int, other: int | None) -> Draws:
        return np.asarray(side[:, score] - (0 if other is None else side[:, other]))

    def _row_variance(self, score: int, other: int | None) -> float:
        """Variance if single rows were resampled."""
        gradient_products = self._product
        squares = gradient_products[score, score]
        if other is not None:
            squares = squares + gradient_products[other, other] - 2 * gradient_products[score, other]
        return float(squares / self._rows - self._value(score, other) ** 2) / self._rows

    def _interval(self, value: float, draws: Draws) -> Interval:
        return interval(value, draws, confidence=self._confidence)
