"""SVD initialization of the ID table from click residuals.

A ranker that starts from small random ID rows is on a plateau: user vectors and item rows carry no signal that the
other could correlate with, and most of the training budget passes before they do. The leading singular vectors of the
click residuals (clicks minus user bias and item bias) start off that plateau.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.linalg import svds

Floats = npt.NDArray[np.float64]

SHRINK = 10.0
"""Number of prior events that pull a user's or an item's mean towards zero."""


def svd_item_init(
    user: npt.NDArray[Any],
    item_idx: npt.NDArray[Any],
    label: npt.NDArray[Any],
    *,
    vocab_size: int,
    width: int,
    seed: int,
) -> npt.NDArray[np.float32]:
    """Rows [V, width]: item bias in column 0, then singular directions, strongest first, then zeros.

    A direction is kept if its singular value is above the largest one of the same residuals with random signs. Rows
    are ridge estimates, so items with few events lie near the row of an unknown item, which is zero.

    Args:
        user: [events] user index.
        item_idx: [events] item index, from 1.
        label: [events] 0 or 1.
        vocab_size: `V`, items + 1.
        width: Columns of a row.
        seed: Of the random signs and of the SVD's start vector.
    """
    rows = np.zeros((vocab_size, width), np.float32)
    users = int(user.max()) + 1
    directions = min(width - 1, users - 2, vocab_size - 2)
    user_bias = _shrunk_mean(user, label - label.mean(), users)
    residual = label - label.mean() - user_bias[user]
    item_bias = _shrunk_mean(item_idx, residual, vocab_size)
    residual = residual - item_bias[item_idx]
    rows[:, 0] = item_bias / max(float(item_bias.std()), 1e-6)
    if directions < 1:
        return rows
    rng = np.random.default_rng(seed)
    left, strength, _ = _decompose(residual, user, item_idx, (users, vocab_size), directions, rng)
    _, noise, _ = _decompose(
        residual * rng.choice([-1.0, 1.0], len(residual)), user, item_idx, (users, vocab_size), 1, rng
    )
    left = left[:, strength > noise[0]]
    if not left.size:
        return rows
    events = np.bincount(item_idx, minlength=vocab_size)
    spread = np.sqrt(np.mean(left**2, axis=0, keepdims=True))
    sums = sparse.csr_matrix((residual, (user, item_idx)), shape=(users, vocab_size)).T @ (left / spread)
    factors = sums / (events[:, None] + SHRINK)
    rows[:, 1 : 1 + factors.shape[1]] = factors / max(float(factors[events > 0].std()), 1e-6)
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
    """Leading singular vectors and values, largest first."""
    matrix = sparse.csr_matrix((value, (user, item_idx)), shape=shape)
    left, strength, right = svds(matrix, k=directions, v0=rng.normal(size=min(shape)))
    order = np.argsort(-strength)
    return left[:, order], strength[order], right[order].T
