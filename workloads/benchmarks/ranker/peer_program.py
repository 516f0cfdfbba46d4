"""Shared code of the peers' programs. It runs in a peer's environment, so it must not import coldstart.

A program reads a JSON task from standard input and writes `result.draft` and `scores.npy` (of the test rows).
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from sklearn.metrics import roc_auc_score


class Peer(Protocol):
    """A peer's model with its own trainer."""

    def fit(self) -> None:
        """Trains with early stopping and keeps the weights of the best epoch."""

    def score(self) -> Any:
        """Click probabilities of the test rows, read from disk."""


class EpochTimer:
    """Validation GAUC and training seconds of each epoch."""

    def __init__(self) -> None:
        self.gauc: list[float] = []
        self.seconds: list[float] = []

    @contextmanager
    def epoch(self) -> Iterator[None]:
        """Times an epoch."""
        self.seconds.append(-time.perf_counter())
        yield
        self.seconds[-1] += time.perf_counter()

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Excludes a block inside an epoch that is not training."""
        began = time.perf_counter()
        yield
        self.seconds[-1] -= time.perf_counter() - began


def columns(rows: str, split: str) -> dict[str, Any]:
    """All columns of a split."""
    with np.load(Path(rows) / f"{split}.npz") as table:
        return dict(table)


def grouped_auc(valid: dict[str, Any], timer: EpochTimer) -> Callable[[Any, Any], float]:
    """A metric for a peer's early stopping: impression-weighted mean AUC per user, over items of the train split."""
    known = valid["known"] == 1
    user = valid["user"][known]
    cuts = np.flatnonzero(np.diff(user)) + 1

    def metric(label: Any, score: Any) -> float:
        total = weight = 0.0
        labels, scores = np.asarray(label).reshape(-1)[known], np.asarray(score).reshape(-1)[known]
        for y, p in zip(np.split(labels, cuts), np.split(scores, cuts), strict=True):
            if 0 < y.sum() < len(y):
                total += len(y) * float(roc_auc_score(y, p))
                weight += len(y)
        timer.gauc.append(total / weight)
        return timer.gauc[-1]

    return metric


def run(build: Callable[[dict[str, Any], EpochTimer], Peer]) -> None:
    """Trains and scores for the task."""
    task = json.load(sys.stdin)
    torch.set_num_threads(task["threads"])
    torch.manual_seed(task["seed"])
    np.random.seed(task["seed"])
    timer = EpochTimer()
    peer = build(task, timer)
    peer.fit()
    began = time.perf_counter()
    scores = np.asarray(peer.score(), np.float64)
    result = {"valid_gauc": timer.gauc, "epoch_seconds": timer.seconds, "score_seconds": time.perf_counter() - began}
    np.save(Path(task["out"]) / "scores.npy", scores)
    (Path(task["out"]) / "result.draft").write_text(json.dumps(result))
