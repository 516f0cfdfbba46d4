"""Click probabilities from log-odds, also where a part of the log-odds is known by its distribution alone."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_NODES, _NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(12)
_SMALLEST = 1e-7


def sigmoid(log_odds: Floats) -> Floats:
    """Probabilities of log-odds."""
    probability: Floats = 0.5 + 0.5 * np.tanh(log_odds / 2)  # does not overflow
    return probability


def intercept(log_odds: Floats, rate: float) -> float:
    """The constant which, added to the log-odds, makes the mean probability equal to `rate`."""
    sample = log_odds[:: max(len(log_odds) // 100_000, 1)]
    low, high = -20.0, 20.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if sigmoid(sample + middle).mean() < rate else (low, middle)
    return (low + high) / 2


def smoothed_sigmoid(log_odds: Floats, spread: float) -> Floats:
    """E[sigmoid(log_odds + N(0, spread^2))] by Gauss-Hermite quadrature."""
    weights = _NODE_WEIGHTS / _NODE_WEIGHTS.sum()
    total = np.zeros_like(log_odds)
    for node, weight in zip(_NODES, weights, strict=True):
        total += weight * sigmoid(log_odds + spread * node)
    return total


def mixture_sigmoid(log_odds: Floats, parts: Sequence[tuple[Floats, Floats]], spread: float) -> Floats:
    """E[sigmoid(log_odds + X_1 + X_2 + ... + N(0, spread^2))] for independent discrete X, by a Fourier series.

    The number of combinations of values does not matter, since the characteristic function of a sum is a product.
    Accurate to 1e-6: tanh(x / 2) continued antiperiodically beyond +-L has the coefficients 2 pi / (L sinh(pi w)) at
    the frequencies w = pi / 2L, 3 pi / 2L, ...

    Args:
        log_odds: [n] known part of the log-odds.
        parts: One pair per X: its values [n, C] and their probabilities [n, C].
        spread: Standard deviation of the normal part.
    """
    reach = np.abs(log_odds).max() + sum(np.abs(values).max() for values, _ in parts)
    limit = max(reach + 6 * spread, 16.0)
    turns = [np.exp(0.5j * np.pi / limit * values) for values in (log_odds, *(values for values, _ in parts))]
    steps = [turn * turn for turn in turns]
    total = np.zeros_like(log_odds)
    frequency = np.pi / (2 * limit)
    while (
        height := np.pi / (limit * np.sinh(np.pi * frequency)) * np.exp(-((frequency * spread) ** 2) / 2)
    ) > _SMALLEST:
        product = turns[0]
        for turn, (_, probability) in zip(turns[1:], parts, strict=True):
            product = product * np.einsum("nc,nc->n", turn, probability)
        total += height * product.imag
        frequency += np.pi / limit
        for turn, step in zip(turns, steps, strict=True):
            turn *= step
    return 0.5 + total
