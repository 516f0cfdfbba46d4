"""Scores test rows and cold items on Ray actors.

A module of its own, so that an actor imports little and starts fast.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import ray
import torch
from numpy.typing import NDArray
from ray.util import ActorPool
from torch import Tensor

from coldstart.alignment import load_joint
from coldstart.config import Journal, Recipe
from coldstart.data.batches import RankBatch, UserWindows
from coldstart.data.contract import TEST
from coldstart.data.dataset import Dataset, part_path
from coldstart.evaluation.scored_rows import EventFacts
from coldstart.evaluation.scoring import Logits, mean_logits, sample_contexts, score_rows
from coldstart.evaluation.variants import BASELINE, CONTEXTS, JOINT, item_appeal, to_logit
from coldstart.rankers import load_ranker

WINDOWS_PER_PASS, PASSES_PER_PIECE = 64, 4
ITEMS_PER_PIECE = 256
CONTEXTS_PER_ITEM = 128
"""Sampled users over whom a logit is averaged to get an item's appeal."""
WEIGHED = ("mlp_map", "coarse", "fine")
"""Variants whose appeal is asked for; on cold items the others have none (oov, id) or are one of these (release)."""
OTHERS = {"trained_oracle": "oracle", JOINT: "joint"}
"""Variant that a model of its own scores -> kind of that model's artifact. Row 0 of its table is an unknown item."""

Ints = NDArray[np.int64]


def evaluated_windows(dataset: Dataset, history: int) -> UserWindows:
    """The rows that are evaluated."""
    return UserWindows(dataset.sequences, history=history, splits=[TEST])


class Scorer:
    """Holds rankers, windows and slot tables in one process and scores pieces of the work.

    Tables come with each call, as a reference in a list that is opened once: an actor that Ray restarts would not find
    them among its constructor's arguments any more.

    Args:
        run_dir: Of the run, seen by all machines.
        history: Longest history a target sees.
        threads: Of this process.
        others: Variants that are scored by models of their own: `OTHERS`.
    """

    def __init__(self, run_dir: Path, *, history: int, threads: int, others: Sequence[str]) -> None:
        torch.set_num_threads(threads)
        self.ranker = load_ranker(run_dir / "ranker")
        self.others = {name: _load(name, run_dir / OTHERS[name]) for name in others}
        self.dataset = Dataset.open(run_dir / "dataset", verify=False)
        self.windows = evaluated_windows(self.dataset, history)
        self.facts = EventFacts(self.dataset)
        self.held: dict[str, Any] = {}

    def appeal(self, items: Ints, contexts: RankBatch, held: list[Any]) -> tuple[Ints, Logits]:
        """The items, and variant -> their mean logits over the contexts."""
        tables = self._tables(held)
        weighed = {name: tables[name] for name in WEIGHED}
        found = mean_logits(self.ranker, contexts, items, weighed, self.dataset.item_features)
        for name, model in self.others.items():
            found |= mean_logits(model, contexts, items, {name: tables[name]}, self.dataset.item_features)
        return items, found

    def rows(self, piece: Ints, held: list[Any], appeal: list[Any], file: Path) -> int:
        """Writes the scored rows of some windows, in the order of events, and returns how many they are.

        Args:
            piece: Windows.
            held: Reference of the slot tables.
            appeal: Reference of variant -> appeal [V] by item, NaN where not known.
            file: Where to write.
        """
        tables = self._tables(held)
        own = {name: table for name, table in tables.items() if name not in self.others}
        event, logits = self._score(self.ranker, piece, own)
        for name, model in self.others.items():
            unknown = tables[name][:1].expand_as(tables[name])
            logits |= self._score(model, piece, {name: tables[name], CONTEXTS[name]: unknown})[1]
        order = np.argsort(event)
        event = event[order]
        item = self.dataset.sequences.item_idx[event]
        logits = {name: values[order] for name, values in logits.items()}
        shared = {name: values[item] for name, values in self._open("appeal", appeal).items()}
        for name, (logit, by_item) in self._truths().items():
            logits[name], shared[name] = logit[event], by_item[event]
        draft = file.with_suffix(".draft")
        pq.write_table(self.facts.rows(event, logits, shared).to_table(), draft, compression="zstd")
        draft.replace(file)
        return len(event)

    def _score(self, ranker: Any, piece: Ints, tables: dict[str, Tensor]) -> tuple[Ints, Logits]:
        parts = (self.windows.batch(piece[i : i + WINDOWS_PER_PASS]) for i in range(0, len(piece), WINDOWS_PER_PASS))
        return score_rows(ranker, parts, tables)

    def _truths(self) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Oracle -> its logits and their appeal, for all events; generated data only."""
        if "truths" not in self.held:
            sequences = self.dataset.sequences
            given = {"content_oracle": sequences.p_click_content, "oracle": sequences.p_click}
            logits = {name: to_logit(truth) for name, truth in given.items() if truth is not None}
            self.held["truths"] = {
                name: (logit.astype(np.float32), item_appeal(logit, sequences.item_idx).astype(np.float32))
                for name, logit in logits.items()
            }
        found: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]] = self.held["truths"]
        return found

    def _tables(self, held: list[Any]) -> dict[str, Tensor]:
        return {name: torch.from_numpy(table) for name, table in self._open("tables", held).items()}

    def _open(self, name: str, held: list[Any]) -> dict[str, NDArray[np.float32]]:
        if name not in self.held:
            self.held[name] = {key: values.copy() for key, values in ray.get(held[0]).items()}
        found: dict[str, NDArray[np.float32]] = self.held[name]
        return found


def _load(name: str, path: Path) -> Any:
    return load_joint(path) if name == JOINT else load_ranker(path)


def score_everything(recipe: Recipe, dataset: Dataset, tables: dict[str, Tensor], directory: Path) -> int:
    """Scores on `cluster.workers` actors, which write the rows as Parquet parts.

    Args:
        recipe: Of the run.
        dataset: Whose test rows are scored.
        tables: Variant -> slot table [V, ...]; must hold `oov`.
        directory: For the parts, seen by all machines.

    Returns:
        How many rows were scored; none when there is no test row.
    """
    windows = evaluated_windows(dataset, recipe.ranker.history)
    if not len(windows):
        return 0
    pool = ActorPool(_actors(recipe, [name for name in OTHERS if name in tables]))
    held = [ray.put({name: table.numpy() for name, table in tables.items()})]
    by_size = np.argsort(-windows.weights, kind="stable")
    cold = np.unique(dataset.sequences.item_idx[windows.rows].astype(np.int64))
    cold = cold[dataset.train_counts[cold] == 0]
    pieces, shelves = _cut(by_size, WINDOWS_PER_PASS * PASSES_PER_PIECE), _cut(cold, ITEMS_PER_PIECE)
    chosen = np.random.default_rng(recipe.seed).permutation(len(windows))[:CONTEXTS_PER_ITEM]
    contexts = ray.put(sample_contexts([windows.batch(chosen)], most=CONTEXTS_PER_ITEM))
    journal = Journal(recipe.run_dir / "journals" / "evaluate.jsonl")
    journal.clear()
    total = len(pieces) + len(shelves)

    def all_of(call: Callable[[Any, Any], Any], work: Sequence[Any], before: int) -> list[Any]:
        found = []
        for part in pool.map_unordered(call, work):
            found.append(part)
            journal.write(before + len(found), total)
        return found

    weighed = all_of(lambda actor, shelf: actor.appeal.remote(shelf, contexts, held), shelves, 0)
    appeal = [ray.put(_by_item(weighed, len(tables[BASELINE])))]
    named = [(piece, part_path(directory.absolute(), number)) for number, piece in enumerate(pieces)]
    return sum(all_of(lambda actor, work: actor.rows.remote(work[0], held, appeal, work[1]), named, len(shelves)))


def _by_item(parts: Sequence[tuple[Ints, Logits]], vocabulary: int) -> Logits:
    """Variant -> [V], NaN for items that no part has."""
    found = {name: np.full(vocabulary, np.nan, np.float32) for name in (parts[0][1] if parts else ())}
    for items, values in parts:
        for name in found:
            found[name][items] = values[name]
    return found


def _actors(recipe: Recipe, others: Sequence[str]) -> list[Any]:
    cluster = recipe.cluster
    kind = ray.remote(num_cpus=cluster.cpus_per_worker, max_restarts=3, max_task_retries=3)(Scorer)
    return [
        kind.remote(
            recipe.run_dir.absolute(),
            history=recipe.ranker.history,
            threads=cluster.threads_per_worker,
            others=others,
        )
        for _ in range(cluster.workers)
    ]


def _cut(order: Ints, size: int) -> list[Ints]:
    return [order[start : start + size] for start in range(0, len(order), size)]
