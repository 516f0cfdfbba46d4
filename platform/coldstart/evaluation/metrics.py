"""Ranking and calibration metrics over flat row arrays.

Every figure is a float; NaN says "not defined" (no rows, or one class only) and becomes `null` in JSON.
Legend: `n` rows, `u` users.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Integers = NDArray[np.integer]


@dataclass(frozen=True)
class UserAucs:
    """AUC of every user that has both classes.

    Attributes:
        user: [u] user indices, ascending.
        auc: [u] float64.
        weight: [u] float64, rows (impressions) of the user.
        left_out: Users that have one class only and therefore no AUC.
    """

    user: NDArray[np.int64]
    auc: NDArray[np.float64]
    weight: NDArray[np.float64]
    left_out: int

    @property
    def mean(self) -> float:
        """Impression-weighted mean, NaN without users."""
        return float(np.average(self.auc, weights=self.weight)) if len(self.auc) else float("nan")


def user_aucs(user: Integers, label: Integers | Floats, score: Floats) -> UserAucs:
    """AUC per user; tied scores count half.

    Args:
        user: [n] user index per row.
        label: [n] 0 or 1.
        score: [n] any monotone score, logits or probabilities.
    """
    if not len(user):
        empty = np.zeros(0, np.float64)
        return UserAucs(np.zeros(0, np.int64), empty, empty, 0)
    order = np.lexsort((score, user))
    user, score, positive = np.asarray(user)[order], np.asarray(score)[order], np.asarray(label)[order] > 0
    new_user = np.r_[True, user[1:] != user[:-1]]
    starts = np.flatnonzero(new_user)
    group = np.cumsum(new_user) - 1
    ties = np.flatnonzero(new_user | np.r_[True, score[1:] != score[:-1]])
    tie = np.repeat(np.arange(len(ties)), np.diff(np.r_[ties, len(user)]))
    first, last = ties[tie], np.r_[ties[1:], len(user)][tie]
    rank = (first + last + 1) / 2 - starts[group]
    positives = np.add.reduceat(positive.astype(np.float64), starts)
    rows = np.diff(np.r_[starts, len(user)]).astype(np.float64)
    rank_sum = np.add.reduceat(rank * positive, starts)
    both = (positives > 0) & (positives < rows)
    up, down = positives[both], (rows - positives)[both]
    auc = (rank_sum[both] - up * (up + 1) / 2) / (up * down)
    return UserAucs(user[starts][both].astype(np.int64), auc, rows[both], int((~both).sum()))


def gauc(user: Integers, label: Integers | Floats, score: Floats) -> float:
    """Impression-weighted mean of per-user AUC; users with one class are left out. Arguments as `user_aucs`."""
    return user_aucs(user, label, score).mean


def auc(label: Integers | Floats, score: Floats) -> float:
    """Area under the ROC curve over all rows, `[n]` each."""
    return user_aucs(np.zeros(len(label), np.int64), label, score).mean


def logloss(label: Integers | Floats, probability: Floats) -> float:
    """Mean negative log likelihood, `[n]` each; probabilities are kept off 0 and 1 by the float64 spacing."""
    if not len(label):
        return float("nan")
    eps = np.finfo(np.float64).eps
    p = np.clip(np.asarray(probability, np.float64), eps, 1 - eps)
    y = np.asarray(label, np.float64)
    return float(-np.mean(y * np.log(p) + (1 - y) * np.log1p(-p)))


@dataclass(frozen=True)
class Reliability:
    """Predicted and observed click rate per bin of about equal mass.

    Attributes:
        predicted: [bins] mean probability.
        observed: [bins] mean label.
        rows: [bins] rows in the bin; empty bins are absent.
    """

    predicted: NDArray[np.float64]
    observed: NDArray[np.float64]
    rows: NDArray[np.float64]

    @property
    def error(self) -> float:
        """Expected calibration error: row-weighted mean gap between predicted and observed, NaN without rows."""
        if not len(self.rows):
            return float("nan")
        return float(np.average(np.abs(self.predicted - self.observed), weights=self.rows))


def reliability(label: Integers | Floats, probability: Floats, *, bins: int) -> Reliability:
    """Bins rows by predicted probability, `[n]` each; equal probabilities share a bin whatever their order."""
    p = np.asarray(probability, np.float64)
    ordered = np.sort(p)
    place = np.searchsorted(ordered, p, side="left") * bins // max(len(p), 1)
    rows = np.bincount(place, minlength=bins).astype(np.float64)
    used = rows > 0
    predicted = np.bincount(place, weights=p, minlength=bins)[used] / rows[used]
    observed = np.bincount(place, weights=np.asarray(label, np.float64), minlength=bins)[used] / rows[used]
    return Reliability(predicted, observed, rows[used])


def sigmoid(logit: Floats) -> NDArray[np.float64]:
    """Probability of a click, without overflow at large negative logits."""
    x = np.asarray(logit, np.float64)
    e = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1 / (1 + e), e / (1 + e)))
