"""Ranking and calibration metrics over flat row arrays.

Metrics are floats. NaN means undefined (no rows, or one class only) and becomes `null` in JSON. A tied pair counts half
in an AUC; NDCG and recall are means over all orders of the ties.
Legend: `n` rows, `u` users.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Integers = NDArray[np.integer]


class UserRanking:
    """Rows of users, ranked by score. Users with one class only have no metrics and are only counted.

    Args:
        user: [n] user index per row, ascending.
        label: [n] 0 or 1.
        score: [n] any monotone score, ascending within each user.

    Attributes:
        user: [u] users with both classes, ascending.
        weight: [u] float64, rows (impressions) of each user.
        left_out: Number of users with one class only.
    """

    def __init__(self, user: Integers, label: NDArray[Any], score: Floats) -> None:
        positive = np.asarray(label) > 0
        new_user = np.ones(len(user), bool)
        new_user[1:] = user[1:] != user[:-1]
        new_tie = new_user.copy()
        new_tie[1:] |= score[1:] != score[:-1]
        starts, ties = np.flatnonzero(new_user), np.flatnonzero(new_tie)
        rows = np.diff(np.append(starts, len(user)))
        clicked = _clicks(positive, starts)
        both = (clicked > 0) & (clicked < rows)
        self.user = np.asarray(user)[starts[both]].astype(np.int64)
        self.weight = rows[both].astype(np.float64)
        self.left_out = int((~both).sum())
        self.kept: NDArray[np.bool_] = np.repeat(both, rows)
        """[n] rows of users with both classes; the arrays below have only these."""
        self._positive = positive[self.kept]
        self._clicked = clicked[both]
        self._starts = np.cumsum(rows[both]) - rows[both]
        self._of = np.repeat(np.arange(len(self._starts)), rows[both])
        size = np.repeat(np.diff(np.append(ties, len(user))), np.diff(np.append(ties, len(user))))
        self._tied = size[self.kept]
        clicks_before: NDArray[np.int64] = np.cumsum(positive) - positive
        tie_of = np.cumsum(new_tie) - 1
        first = ties[tie_of] if len(ties) else tie_of
        own_start = np.repeat(starts, rows)
        self._below = (first - own_start)[self.kept]
        self._clicks_below: NDArray[np.int64] = (clicks_before[first] - clicks_before[own_start])[self.kept]
        self._clicks_tied = _clicks(positive, ties)[tie_of][self.kept] if len(ties) else clicks_before

    @cached_property
    def _correct_pairs(self) -> NDArray[np.float64]:
        """[kept rows] rows of the other class that are correctly ordered with this row, ties as half."""
        skips = (self._below - self._clicks_below) + (self._tied - self._clicks_tied) / 2
        clicks = self._clicked[self._of] - self._clicks_below - self._clicks_tied / 2
        return np.asarray(np.where(self._positive, skips, clicks))

    @cached_property
    def wins(self) -> NDArray[np.float64]:
        """[u] correctly ordered pairs of a click and a skip, ties as half."""
        return self._per_user(self._correct_pairs * self._positive)

    @cached_property
    def auc(self) -> NDArray[np.float64]:
        """[u] area under the ROC curve: the share of pairs that are correctly ordered."""
        return self.wins / (self._clicked * (self.weight - self._clicked))

    @property
    def mean(self) -> float:
        """GAUC: mean AUC weighted by impressions; NaN without users."""
        return float(np.average(self.auc, weights=self.weight)) if len(self.weight) else float("nan")

    @property
    def auc_gradient(self) -> NDArray[np.float64]:
        """[kept rows] derivative of the sum of `weight * auc` with respect to a weight on the row.

        The weight multiplies the row's impressions and its pairs. The sum over the rows of an item, minus GAUC for each
        row and divided by all rows, is the influence of the item on GAUC (infinitesimal jackknife, Efron 1982,
        section 6.3).
        """
        others = np.where(self._positive, self.weight[self._of] - self._clicked[self._of], self._clicked[self._of])
        own_class = self.weight[self._of] - others
        auc = self.auc[self._of]
        return np.asarray(self.weight[self._of] * (self._correct_pairs / others - auc) / own_class + auc)

    def ndcg(self, top_k: int) -> NDArray[np.float64]:
        """[u] normalized discounted cumulative gain of the `top_k` rows with the highest scores (Järvelin, 2002)."""
        discount = np.append(0.0, np.cumsum(1 / np.log2(np.arange(top_k) + 2)))
        gain = self._per_user(self._positive * self._mean_over_ties(discount, top_k))
        return np.asarray(gain / discount[np.minimum(self._clicked, top_k)])

    def recall(self, top_k: int) -> NDArray[np.float64]:
        """[u] share of the user's clicks that are among the `top_k` rows with the highest scores."""
        return self._per_user(self._positive * self._mean_over_ties(np.arange(top_k + 1.0), top_k)) / self._clicked

    def _mean_over_ties(self, cumulative: NDArray[np.float64], top_k: int) -> NDArray[np.float64]:
        """Each row's mean value over the orders of its ties; `cumulative[k]` is the value of the first `k` ranks."""
        last = (self.weight[self._of].astype(np.int64) - self._below).clip(max=top_k)
        first = (self.weight[self._of].astype(np.int64) - self._below - self._tied).clip(max=top_k)
        return np.asarray((cumulative[last] - cumulative[first]) / self._tied)

    def _per_user(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.add.reduceat(values, self._starts) if len(self._starts) else np.zeros(0)


def _clicks(positive: NDArray[np.bool_], starts: NDArray[np.integer]) -> NDArray[np.int64]:
    """Number of positive rows in each run that begins at `starts`."""
    if not len(starts):
        return np.zeros(0, np.int64)
    return np.asarray(np.add.reduceat(positive.astype(np.int64), starts))


def rank_users(user: Integers, label: Integers | Floats, score: Floats) -> UserRanking:
    """Ranks rows that are in any order.

    Args:
        user: [n] user index per row.
        label: [n] 0 or 1.
        score: [n] any monotone score, logits or probabilities.
    """
    order = np.lexsort((score, user))
    return UserRanking(np.asarray(user)[order], np.asarray(label)[order], np.asarray(score)[order])


def gauc(user: Integers, label: Integers | Floats, score: Floats) -> float:
    """Mean AUC of users, weighted by impressions; users with one class are left out. Arguments as `rank_users`."""
    return rank_users(user, label, score).mean


def auc(label: Integers | Floats, score: Floats) -> float:
    """Area under the ROC curve over all rows, `[n]` each."""
    return rank_users(np.zeros(len(label), np.int64), label, score).mean


def logloss(label: Integers | Floats, probability: Floats) -> float:
    """Mean negative log likelihood, `[n]` each; probabilities are clipped to the float64 epsilon."""
    return float(losses(label, probability).mean()) if len(label) else float("nan")


def losses(label: Integers | Floats, probability: Floats) -> NDArray[np.float64]:
    """Negative log likelihood of each row."""
    eps = np.finfo(np.float64).eps
    p = np.clip(np.asarray(probability, np.float64), eps, 1 - eps)
    y = np.asarray(label, np.float64)
    return -(y * np.log(p) + (1 - y) * np.log1p(-p))


@dataclass(frozen=True)
class Reliability:
    """Predicted and observed click rate per bin of about equal mass.

    Attributes:
        predicted: [bins] mean probability.
        observed: [bins] mean label.
        rows: [bins] rows; empty bins are absent.
    """

    predicted: NDArray[np.float64]
    observed: NDArray[np.float64]
    rows: NDArray[np.float64]

    @property
    def error(self) -> float:
        """Expected calibration error: mean absolute gap, weighted by rows; NaN without rows."""
        if not len(self.rows):
            return float("nan")
        return float(np.average(np.abs(self.predicted - self.observed), weights=self.rows))

    @classmethod
    def from_sums(cls, sums: NDArray[np.float64]) -> "Reliability":
        """From `bin_sums`, summed over all parts of the rows."""
        rows, predicted, observed = sums[:, sums[0] > 0]
        return cls(predicted / rows, observed / rows, rows)


def bin_sums(
    label: Integers | Floats, probability: Floats, *, bins: int, below: int = 0, total: int | None = None
) -> NDArray[np.float64]:
    """[3, bins] rows, summed probability and summed label of bins of equal mass; equal probabilities share a bin.

    Args:
        label: [n] labels of a contiguous range of the probabilities.
        probability: [n], in any order.
        bins: Number of bins for all rows.
        below: Rows in lower ranges.
        total: Rows in all ranges; None if there is only this one.
    """
    p = np.asarray(probability, np.float64)
    place = (below + np.searchsorted(np.sort(p), p, side="left")) * bins // max(len(p) if total is None else total, 1)
    sides = (None, p, np.asarray(label, np.float64))
    return np.stack([np.bincount(place, weights=side, minlength=bins).astype(np.float64) for side in sides])


def reliability(label: Integers | Floats, probability: Floats, *, bins: int) -> Reliability:
    """Bins rows by predicted probability, `[n]` each."""
    return Reliability.from_sums(bin_sums(label, probability, bins=bins))


def population_stability_index(expected: Floats, found: Floats) -> float:
    """Population stability index of two histograms over the same bins: 0 if equal; above 0.2 is usually called a shift.

    The symmetric Kullback-Leibler divergence of the two (Jeffreys, 1946). Half a row is added to each bin, so that
    empty bins do not make it infinite.

    Args:
        expected: [bins] rows per bin.
        found: [bins] rows per bin.

    Returns:
        The index; NaN if either histogram has no rows.
    """
    if not (np.sum(expected) and np.sum(found)):
        return float("nan")
    p, q = (np.asarray(counts, np.float64) + 0.5 for counts in (expected, found))
    p, q = p / p.sum(), q / q.sum()
    return float(((q - p) * np.log(q / p)).sum())


def sigmoid(logit: Floats) -> NDArray[np.float64]:
    """Click probability, without overflow at large negative logits."""
    x = np.asarray(logit, np.float64)
    e = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1 / (1 + e), e / (1 + e)))
