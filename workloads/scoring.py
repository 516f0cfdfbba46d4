"""Scores test rows and cold items on Ray actors.

A module of its own, so that an actor imports little and starts fast.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray.util import ActorPool
from torch import Tensor

from coldstart.config import Journal, Recipe
from coldstart.data.batches import RankBatch, UserWindows
from coldstart.data.contract import TEST
from coldstart.data.dataset import Dataset
from coldstart.evaluation.scoring import Logits, mean_logits, sample_contexts, score_rows
from coldstart.rankers import load_ranker

WINDOWS_PER_PASS, PASSES_PER_PIECE = 64, 4
ITEMS_PER_PIECE = 256
CONTEXTS = 128
"""Sampled users over whom a logit is averaged to get an item's appeal."""
WEIGHED = ("mlp_map", "coarse", "fine")
"""Variants whose appeal is asked for; on cold items the others have none (oov, id) or are one of these (release)."""

Ints = NDArray[np.int64]


def evaluated_windows(dataset: Dataset, history: int) -> UserWindows:
    """The rows that are evaluated."""
    return UserWindows(dataset.sequences, history=history, splits=[TEST])


class Scorer:
    """Holds ranker, windows and slot tables in one process and scores pieces of the work.

    Tables come with each call, as a reference in a list that is opened once: an actor that Ray restarts would not find
    them among its constructor's arguments any more.

    Args:
        run_dir: Of the run, seen by all machines.
        history: Longest history a target sees.
        threads: Of this process.
    """

    def __init__(self, run_dir: Path, *, history: int, threads: int) -> None:
        torch.set_num_threads(threads)
        self.ranker = load_ranker(run_dir / "ranker")
        self.windows = evaluated_windows(Dataset.open(run_dir / "dataset", verify=False), history)
        self.tables: dict[str, Tensor] = {}

    def rows(self, piece: Ints, held: list[Any]) -> tuple[Ints, Logits]:
        """Event positions of the targets of some windows, and variant -> their logits."""
        parts = (self.windows.batch(piece[i : i + WINDOWS_PER_PASS]) for i in range(0, len(piece), WINDOWS_PER_PASS))
        return score_rows(self.ranker, parts, self._open(held))

    def appeal(self, items: Ints, contexts: RankBatch, held: list[Any]) -> tuple[Ints, Logits]:
        """The items, and variant -> their mean logits over the contexts."""
        tables = {name: table for name, table in self._open(held).items() if name in WEIGHED}
        return items, mean_logits(self.ranker, contexts, items, tables)

    def _open(self, held: list[Any]) -> dict[str, Tensor]:
        if not self.tables:
            self.tables = {name: torch.from_numpy(table.copy()) for name, table in ray.get(held[0]).items()}
        return self.tables


def score_everything(
    recipe: Recipe, windows: UserWindows, tables: dict[str, Tensor], cold: Ints
) -> tuple[Logits, Logits]:
    """Scores on `cluster.workers` actors.

    Args:
        recipe: Of the run.
        windows: From `evaluated_windows`.
        tables: Variant -> slot table [V, d].
        cold: [c] cold items, ascending.

    Returns:
        Variant -> logits in the order of `windows.rows`, and variant -> mean logits by cold item over sampled users.
    """
    pool = ActorPool(_actors(recipe))
    held = [ray.put({name: table.numpy() for name, table in tables.items()})]
    by_size = np.argsort(-windows.weights, kind="stable")
    pieces, shelves = _cut(by_size, WINDOWS_PER_PASS * PASSES_PER_PIECE), _cut(cold, ITEMS_PER_PIECE)
    chosen = np.random.default_rng(recipe.seed).permutation(len(windows))[:CONTEXTS]
    contexts = ray.put(sample_contexts([windows.batch(chosen)], most=CONTEXTS))
    journal = Journal(recipe.run_dir / "journals" / "evaluate.jsonl")
    journal.clear()
    scored: list[tuple[Ints, Logits]] = []
    weighed: list[tuple[Ints, Logits]] = []
    total = len(pieces) + len(shelves)
    for part in pool.map_unordered(lambda actor, piece: actor.rows.remote(piece, held), pieces):
        scored.append(part)
        journal.write(len(scored), total)
    for part in pool.map_unordered(lambda actor, shelf: actor.appeal.remote(shelf, contexts, held), shelves):
        weighed.append(part)
        journal.write(len(scored) + len(weighed), total)
    return _in_order(scored), _in_order(weighed)


def _actors(recipe: Recipe) -> list[Any]:
    cluster = recipe.cluster
    kind = ray.remote(num_cpus=cluster.cpus_per_worker, max_restarts=3, max_task_retries=3)(Scorer)
    return [
        kind.remote(recipe.run_dir.absolute(), history=recipe.ranker.history, threads=cluster.threads_per_worker)
        for _ in range(cluster.workers)
    ]


def _cut(order: Ints, size: int) -> list[Ints]:
    return [order[start : start + size] for start in range(0, len(order), size)]


def _in_order(parts: Sequence[tuple[Ints, Logits]]) -> Logits:
    """Values of all parts by ascending key; keys occur once."""
    if not parts:
        return {}
    order = np.argsort(np.concatenate([keys for keys, _ in parts]))
    return {name: np.concatenate([values[name] for _, values in parts])[order] for name in parts[0][1]}
