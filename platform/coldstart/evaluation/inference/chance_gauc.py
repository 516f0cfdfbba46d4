"""The spread of GAUC by chance, from the labels alone: before a model exists, it shows what its test rows can show."""

import math

import numpy as np
from numpy.typing import NDArray


class ChanceGauc:
    """GAUC of scores without information: every item has one random score, the same for all users.

    Its variance is the first two terms of Hoeffding's decomposition of U-statistics (1948): the sum over items of the
    squared influence of an item's score, and that of pairs of items within a user. Pairs that several users share count
    as different ones, which matters only where users are few and see the same items. A proxy in the ID slot is such a
    score as far as it is item effect; so the intervals over items that the evaluation reports are about this wide.

    Args:
        items: Number of items `N`.
    """

    def __init__(self, items: int) -> None:
        self._influence = np.zeros(items + 1)
        self._pairs = 0.0
        self._rows = 0

    def add(self, user: NDArray[np.integer], item: NDArray[np.integer], label: NDArray[np.integer]) -> None:
        """Adds all rows of some users; users with one class only have no AUC and are left out.

        Args:
            user: [n] user index per row.
            item: [n] item index, 1..N.
            label: [n] 0 or 1.
        """
        if not len(user):
            return
        rows, clicked = np.bincount(user), np.bincount(user, weights=label)
        skipped = rows - clicked
        both = (clicked > 0) & (skipped > 0)
        kept = both[user]
        user, item, positive = user[kept], item[kept], label[kept] > 0
        weight = np.where(
            positive, rows[user] / np.maximum(clicked[user], 1), -rows[user] / np.maximum(skipped[user], 1)
        )
        self._influence += np.bincount(item, weights=weight, minlength=len(self._influence))
        pairs = clicked * skipped - _tied_pairs(user, item, positive, len(rows))
        self._pairs += float((pairs[both] * (rows[both] / (clicked[both] * skipped[both])) ** 2).sum())
        self._rows += int(rows[both].sum())

    @property
    def standard_error(self) -> float:
        """Standard deviation of GAUC around one half; NaN if no user clicks one item and skips another."""
        # A uniform score has the variance 1/12, and so has what is left of a pair's order beyond its two scores.
        variance = (float((self._influence**2).sum()) + self._pairs) / 12
        return math.sqrt(variance) / self._rows if variance > 0 else math.nan


def _tied_pairs(
    user: NDArray[np.integer], item: NDArray[np.integer], positive: NDArray[np.bool_], users: int
) -> NDArray[np.float64]:
    """[users] pairs of a click and a skip of the same item, which has one score."""
    items = int(item.max(initial=0)) + 1
    distinct, place = np.unique(user.astype(np.int64) * items + item, return_inverse=True)
    clicked = np.bincount(place, weights=positive, minlength=len(distinct))
    skipped = np.bincount(place, minlength=len(distinct)) - clicked
    return np.asarray(np.bincount(distinct // items, weights=clicked * skipped, minlength=users), np.float64)
