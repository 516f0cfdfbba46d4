"""The plain opponent: a regression from a frozen content vector to the ID row (CB2CF), tuned as hard as the adaptor."""

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
HELD_OUT = 0.15
MIN_MATURE = 10
"""Mature items below which nothing can be learned and every item keeps the OOV row."""


def fit_content_map(states: Tensor, id_rows: Tensor, mature: npt.NDArray[np.bool_], *, seed: int) -> Tensor:
    """Predicts every item's ID row from its content by the regression that does best on held-out mature items.

    Candidates are ridge regressions and small MLPs over a grid of penalties; the best one is fitted again on all
    mature items.

    Args:
        states: [N + 1, G, D] layer states, frozen; row 0 is not read.
        id_rows: [N + 1, d] the ranker's ID table.
        mature: [N + 1] items whose rows are good enough to learn from.
        seed: Of the hold-out and of the MLPs.

    Returns:
        Predicted rows [N + 1, d], with row 0 (OOV) as it was.
    """
    items = np.flatnonzero(mature[1:]) + 1
    if len(items) < MIN_MATURE:
        return id_rows[:1].repeat(len(id_rows), 1)
    order = np.random.default_rng(seed).permutation(items)
    held, kept = np.split(order, [int(len(order) * HELD_OUT)])
    grid = [("ridge", penalty) for penalty in RIDGE_PENALTIES] + [("mlp", penalty) for penalty in MLP_PENALTIES]
    errors = [float(((_predicted(states, id_rows, kept, *map_, seed) - id_rows)[held] ** 2).mean()) for map_ in grid]
    return _predicted(states, id_rows, items, *grid[int(np.argmin(errors))], seed)


def content_map(
    states: Tensor, id_rows: Tensor, mature: npt.NDArray[np.bool_], *, kind: str, penalty: float, seed: int
) -> Tensor:
    """As `fit_content_map`, by one kind of regression (`ridge`, `mlp`) and one penalty."""
    items = np.flatnonzero(mature[1:]) + 1
    if len(items) < MIN_MATURE:
        return id_rows[:1].repeat(len(id_rows), 1)
    return _predicted(states, id_rows, items, kind, penalty, seed)


def _predicted(states: Tensor, id_rows: Tensor, items: Ints, kind: str, penalty: float, seed: int) -> Tensor:
    """Rows [N + 1, d] as a regression fitted on some items says, with row 0 (OOV) as it was."""
    rows, content = id_rows.numpy(), states.flatten(1).numpy()
    read = StandardScaler().fit(content[items]).transform(content).astype(np.float32)
    # One spread for all columns: a strong direction of the table has to stay strong in the error.
    mean, spread = rows[items].mean(0), max(float(rows[items].std()), 1e-6)
    model = _fit(kind, penalty, read[items], (rows[items] - mean) / spread, seed)
    predicted = np.asarray(model.predict(read)) * spread + mean
    predicted[0] = rows[0]
    return torch.from_numpy(predicted.astype(np.float32))


def _fit(name: str, penalty: float, content: Floats, target: Floats, seed: int) -> Any:
    if name == "ridge":
        return Ridge(alpha=penalty).fit(content, target)
    model = MLPRegressor(hidden_layer_sizes=(256,), alpha=penalty, max_iter=80, early_stopping=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(content, target)
