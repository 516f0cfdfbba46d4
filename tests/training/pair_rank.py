"""Contrastive training on small pairs; the tests run it in this process, and in one process per rank."""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coldstart.config import MetricsLog
from coldstart.config.recipe import Contrastive
from coldstart.training.contrastive_trainer import ContrastiveContext, ContrastiveTrainer, PairModel, Pairs

PAIRS, WIDTH, FEATURES = 60, 8, 6
SETTINGS = {"epochs": 3, "batch": 12, "queue_batches": 2, "momentum": 0.9, "learning_rate": 0.02, "checkpoint_every": 2}


class TwoLevels(PairModel):
    """A tower of queries and one of items, and a second level that fuses the latter with noise of its own."""

    width = WIDTH
    levels: Mapping[str, float] = {"item": 0.5, "both": 1.0}

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.query, self.item, self.both = (nn.Linear(FEATURES, WIDTH) for _ in range(3))

    def encode_items(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        items = inputs["item"]
        return {
            "item": F.normalize(self.item(items), dim=-1),
            "both": F.normalize(self.item(items) + self.both(items.square()), dim=-1),
        }

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        query = F.normalize(self.query(inputs["query"]), dim=-1)
        return {level: (query, items) for level, items in self.encode_items(inputs).items()}


def pairs(count: int = PAIRS, *, seed: int = 0, stop_after: int | None = None, weighted: bool = False) -> Pairs:
    """Queries and items that share a hidden vector; some items occur in several pairs.

    Args:
        count: Number of pairs.
        seed: Of the data.
        stop_after: Ends the process when this batch is read.
        weighted: Whether pairs have different weights.
    """
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(20, FEATURES)).astype(np.float32)
    mixed = rng.normal(size=(FEATURES, FEATURES)).astype(np.float32)
    rng = np.random.default_rng((1, seed))
    item = rng.integers(0, 20, count)
    rows = {
        "query": (hidden[item] @ mixed + 0.2 * rng.normal(size=(count, FEATURES))).astype(np.float32),
        "item": hidden[item],
    }
    user = rng.integers(0, 15, count)

    def stream(order: np.ndarray, size: int) -> Iterator[dict[str, Tensor]]:
        for number, start in enumerate(range(0, len(order), size)):
            if number == stop_after:
                os._exit(9)
            chosen = order[start : start + size]
            yield {name: torch.from_numpy(values[chosen]) for name, values in rows.items()}

    groups = np.stack([item, user + 1000], axis=1).astype(np.int64)
    weights = rng.uniform(0.5, 2, count).astype(np.float32) if weighted else None
    return Pairs(groups, groups, stream, weights)


def train(
    out: Path | None = None,
    *,
    stop_after: int | None = None,
    key: str = "k",
    change: Callable[[PairModel], None] = lambda model: None,
    **more: Any,
) -> dict[str, Any]:
    """Trains with a checkpoint directory, and returns weights, the curve, and the losses that were logged."""
    torch.set_num_threads(1)
    log = None if out is None else MetricsLog(out / "metrics.jsonl")
    model = TwoLevels()
    change(model)
    context = ContrastiveContext(5, log, None if out is None else out / "checkpoints", key)
    data = pairs(stop_after=stop_after, weighted=True)
    trainer = ContrastiveTrainer(model, data, pairs(23, seed=1), Contrastive(**SETTINGS | more), context)
    curve = trainer.run()
    return {"weights": model.state_dict(), "curve": curve, "learner": trainer.learner.state_dict()}
