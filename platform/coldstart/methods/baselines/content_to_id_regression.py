"""Baseline: regression from frozen content vectors to ID rows (CB2CF), tuned with as much effort as the adaptor."""

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Ridge
from sklearn.neural_network import MLPRegressor
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from coldstart.methods.baselines.adaptors import ContentToRow

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

RIDGE_PENALTIES = (1.0, 10.0, 100.0, 1_000.0, 10_000.0)
MLP_PENALTIES = (0.1, 1.0, 10.0)
HOLDOUT_FRACTION = 0.15
UNITS = 256
"""Hidden units of the MLP."""
MIN_MATURE = 10
"""Minimum number of mature items; with fewer, every item gets the OOV row."""


def best_content_to_id_regression(
    states: Tensor, id_rows: Tensor, mature: npt.NDArray[np.bool_], *, seed: int
) -> Tensor:
    """Predicts every item's ID row from its content, with the regression that is best on held-out mature items.

    Candidates are ridge regressions and small MLPs over a grid of penalties. The best one is refitted on all mature
    items.

    Args:
        states: [N + 1, G, D] frozen layer states; row 0 is ignored.
        id_rows: [N + 1, d] the ranker's ID table.
        mature: [N + 1] items whose rows have enough events to learn from.
        seed: Of the holdout and of the MLPs.

    Returns:
        Predicted rows [N + 1, d]; row 0 (OOV) is unchanged.
    """
    items = np.flatnonzero(mature[1:]) + 1
    if len(items) < MIN_MATURE:
        return id_rows[:1].repeat(len(id_rows), 1)
    order = np.random.default_rng(seed).permutation(items)
    held, kept = np.split(order, [int(len(order) * HOLDOUT_FRACTION)])
    grid = [("ridge", penalty) for penalty in RIDGE_PENALTIES] + [("mlp", penalty) for penalty in MLP_PENALTIES]
    errors = [float(((_predicted(states, id_rows, kept, *map_, seed) - id_rows)[held] ** 2).mean()) for map_ in grid]
    return _predicted(states, id_rows, items, *grid[int(np.argmin(errors))], seed)


def fit_content_to_id(
    states: Tensor, id_rows: Tensor, mature: npt.NDArray[np.bool_], *, kind: str, penalty: float, seed: int
) -> ContentToRow:
    """A regression from content to ID rows, of one kind (`ridge`, `mlp`); arguments as above.

    Fitted to fewer than `MIN_MATURE` items it predicts the OOV row.
    """
    items = np.flatnonzero(mature[1:]) + 1
    if len(items) < MIN_MATURE:
        unknown = ContentToRow(states.shape[1], states.shape[2], id_rows.shape[1], units=0)
        unknown.offset.copy_(id_rows[0])
        unknown.spread.zero_()
        return unknown
    return _fit(states, id_rows, items, kind, penalty, seed)


@torch.no_grad()
def _predicted(states: Tensor, id_rows: Tensor, items: Ints, kind: str, penalty: float, seed: int) -> Tensor:
    """Rows [N + 1, d] predicted by a regression that is fitted on `items`; row 0 (OOV) is unchanged."""
    predicted: Tensor = _fit(states, id_rows, items, kind, penalty, seed)(states)
    return torch.cat([id_rows[:1], predicted[1:]])


@torch.no_grad()
def _fit(states: Tensor, id_rows: Tensor, items: Ints, kind: str, penalty: float, seed: int) -> ContentToRow:
    rows, content = id_rows.numpy()[items], states.flatten(1).numpy()[items]
    inputs = StandardScaler().fit(content)
    # One scale for all columns, so that directions with a large variance keep a large weight in the error.
    mean, scale = rows.mean(0), max(float(rows.std()), 1e-6)
    standardized: Floats = inputs.transform(content).astype(np.float32)
    weights, biases = _regress(kind, penalty, standardized, (rows - mean) / scale, seed)
    units = UNITS if len(weights) > 1 else 0
    fitted = ContentToRow(states.shape[1], states.shape[2], rows.shape[1], units=units)
    fitted.mean.copy_(torch.from_numpy(inputs.mean_))
    fitted.scale.copy_(torch.from_numpy(inputs.scale_))
    fitted.offset.copy_(torch.from_numpy(mean))
    fitted.spread.fill_(scale)
    linear = [layer for layer in fitted.layers if isinstance(layer, torch.nn.Linear)]
    for layer, weight, bias in zip(linear, weights, biases, strict=True):
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))
    return fitted


def _regress(
    kind: str, penalty: float, content: Floats, target: Floats, seed: int
) -> tuple[list[npt.NDArray[Any]], list[npt.NDArray[Any]]]:
    """Weights `[out, in]` and biases `[out]` of each layer."""
    if kind == "ridge":
        ridge = Ridge(alpha=penalty).fit(content, target)
        return [ridge.coef_.reshape(-1, content.shape[1])], [np.atleast_1d(ridge.intercept_)]
    options = {"alpha": penalty, "max_iter": 80, "early_stopping": True, "random_state": seed}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        mlp = MLPRegressor(hidden_layer_sizes=(UNITS,), **options).fit(content, target)
    return [weight.T for weight in mlp.coefs_], list(mlp.intercepts_)
