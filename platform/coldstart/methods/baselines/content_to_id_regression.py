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

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

RIDGE_PENALTIES = (1.0, 10.0, 100.0, 1_000.0, 10_000.0)
MLP_PENALTIES = (0.1, 1.0, 10.0)
HOLDOUT_FRACTION = 0.15
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


def content_to_id_regression(
    states: Tensor, id_rows: Tensor, mature: npt.NDArray[np.bool_], *, kind: str, penalty: float, seed: int
) -> Tensor:
    """Like `best_content_to_id_regression`, with one given kind of regression (`ridge`, `mlp`) and penalty."""
    items = np.flatnonzero(mature[1:]) + 1
    if len(items) < MIN_MATURE:
        return id_rows[:1].repeat(len(id_rows), 1)
    return _predicted(states, id_rows, items, kind, penalty, seed)


def _predicted(states: Tensor, id_rows: Tensor, items: Ints, kind: str, penalty: float, seed: int) -> Tensor:
    """Rows [N + 1, d] predicted by a regression that is fitted on `items`; row 0 (OOV) is unchanged."""
    rows, content = id_rows.numpy(), states.flatten(1).numpy()
    inputs = StandardScaler().fit(content[items]).transform(content).astype(np.float32)
    # One scale for all columns, so that directions with a large variance keep a large weight in the error.
    mean, scale = rows[items].mean(0), max(float(rows[items].std()), 1e-6)
    model = _fit(kind, penalty, inputs[items], (rows[items] - mean) / scale, seed)
    predicted = np.asarray(model.predict(inputs)) * scale + mean
    predicted[0] = rows[0]
    return torch.from_numpy(predicted.astype(np.float32))


def _fit(name: str, penalty: float, content: Floats, target: Floats, seed: int) -> Any:
    if name == "ridge":
        return Ridge(alpha=penalty).fit(content, target)
    model = MLPRegressor(hidden_layer_sizes=(256,), alpha=penalty, max_iter=80, early_stopping=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(content, target)
