"""A first guess of the ID table: who clicked what beyond habit and appeal, reduced to its significant directions.

A ranker that learns tastes from small random rows starts on a plateau: neither a user's taste nor an item's row has
anything to correlate with, and most of the training budget goes by before it finds them. The leading singular vectors
of the click residuals are off that plateau.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.linalg import svds

Floats = npt.NDArray[np.float64]

SHRINK = 10.0
"""Events of prior evidence against which a user's or an item's mean is weighed."""


def taste_rows(
    user: npt.NDArray[Any],
    item_idx: npt.NDArray[Any],
    label: npt.NDArray[Any],
    *,
    vocabulary: int,
    width: int,
    seed: int,
) -> npt.NDArray[np.float32]:
    """Rows [V, width]: column 0 is appeal, the next ones are tastes by strength, the rest is zero.

    As many tastes are kept as have a singular value above what the same residuals with random signs show. Rows are
    ridge estimates, so items with little evidence lie near the row of an unknown item, which is zero.

    Args:
        user: [events] user index.
        item_idx: [events] item index, from 1.
        label: [events] 0 or 1.
        vocabulary: `V`, items + 1.
        width: Of a row.
        seed: Of the comparison with noise.
    """
    rows = np.zeros((vocabulary, width), np.float32)
    users = int(user.max()) + 1
    directions = min(width - 1, users - 2, vocabulary - 2)
    habit = _shrunk_mean(user, label - label.mean(), users)
    residual = label - label.mean() - habit[user]
    appeal = _shrunk_mean(item_idx, residual, vocabulary)
    residual = residual - appeal[item_idx]
    rows[:, 0] = appeal / max(float(appeal.std()), 1e-6)
    if directions < 1:
        return rows
    rng = np.random.default_rng(seed)
    left, strength, _ = _decompose(residual, user, item_idx, (users, vocabulary), directions, rng)
    _, noise, _ = _decompose(
        residual * rng.choice([-1.0, 1.0], len(residual)), user, item_idx, (users, vocabulary), 1, rng
    )
    left = left[:, strength > noise[0]]
    if not left.size:
        return rows
    evidence = np.bincount(item_idx, minlength=vocabulary)
    spread = np.sqrt(np.mean(left**2, axis=0, keepdims=True))
    seen = sparse.csr_matrix((residual, (user, item_idx)), shape=(users, vocabulary)).T @ (left / spread)
    tastes = seen / (evidence[:, None] + SHRINK)
    rows[:, 1 : 1 + tastes.shape[1]] = tastes / max(float(tastes[evidence > 0].std()), 1e-6)
    return rows


def _shrunk_mean(group: npt.NDArray[Any], value: Floats, groups: int) -> Floats:
    total = np.bincount(group, weights=value, minlength=groups)
    mean: Floats = total / (np.bincount(group, minlength=groups) + SHRINK)
    return mean


def _decompose(
    value: Floats,
    user: npt.NDArray[Any],
    item_idx: npt.NDArray[Any],
    shape: tuple[int, int],
    directions: int,
    rng: np.random.Generator,
) -> tuple[Floats, Floats, Floats]:
    """Leading singular vectors and values, strongest first."""
    matrix = sparse.csr_matrix((value, (user, item_idx)), shape=shape)
    left, strength, right = svds(matrix, k=directions, v0=rng.normal(size=min(shape)))
    order = np.argsort(-strength)
    return left[:, order], strength[order], right[order].T
