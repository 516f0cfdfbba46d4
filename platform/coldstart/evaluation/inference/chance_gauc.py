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
        self._pairs += float((rows[both] ** 2 / (clicked[both] * skipped[both])).sum())
        self._rows += int(rows[both].sum())

    @property
    def standard_error(self) -> float:
        """Standard deviation of GAUC around one half; NaN if no user has both classes."""
        if not self._rows:
            return math.nan
        # A uniform score has the variance 1/12, and so has what is left of a pair's order beyond its two scores.
        return math.sqrt((float((self._influence**2).sum()) + self._pairs) / 12) / self._rows
