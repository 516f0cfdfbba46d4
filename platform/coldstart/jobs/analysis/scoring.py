"""Scores test rows and cold items with Ray actors.

This is a separate module, so that actors import little and start fast.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import ray
import torch
from numpy.typing import NDArray
from ray.util import ActorPool
from torch import Tensor

from coldstart.config import MetricsLog, Recipe
from coldstart.data.batches import RankBatch, UserWindows
from coldstart.data.dataset import Dataset, part_path
from coldstart.data.item_table import ItemTable
from coldstart.data.schema import TEST
from coldstart.evaluation.protocol.scored_rows import EventFacts
from coldstart.evaluation.protocol.scoring import Logits, mean_logits, sample_contexts, score_rows
from coldstart.evaluation.protocol.variants import OOV_SUFFIX, leave_one_out_item_mean, to_logit
from coldstart.methods.base import Parts, Variant
from coldstart.rankers.scorer import unknown_targets
from coldstart.training.ctr_trainer import Score

WINDOWS_PER_PASS, PASSES_PER_CHUNK = 64, 4
ITEMS_PER_CHUNK = 256
CONTEXTS_PER_ITEM = 128
"""Sampled users over whom the logit of an item is averaged to get its item effect."""
Ints = NDArray[np.int64]


def evaluated_windows(dataset: Dataset, history: int) -> UserWindows:
    """Windows with the test rows as targets."""
    return UserWindows(dataset.sequences, history=history, splits=[TEST])


class ScoringActor:
    """Has scorers, windows and item tables in one process, and scores chunks of the rows and items.

    Every call gets the tables as an object reference in a list, which is loaded once: an actor that Ray restarts no
    longer finds object references among its constructor's arguments.

    Args:
        run_dir: Of the run, visible to all machines.
        variants: Without their item tables; their scores differ.
        copies: Variant -> the one of `variants` whose scores it has, too.
        parts: Kind -> directory of the run's artifacts.
        history: Maximum history of a target.
        threads: Of this process.
    """

    def __init__(
        self,
        run_dir: Path,
        variants: Sequence[Variant],
        copies: Mapping[str, str],
        parts: Parts,
        *,
        history: int,
        threads: int,
    ) -> None:
        torch.set_num_threads(threads)
        loaded = {load: load(parts) for load in {variant.load for variant in variants}}
        self.copies = copies
        self.variants = {variant.name: variant for variant in variants}
        self.scorers = {variant.name: loaded[variant.load] for variant in variants}
        self.dataset = Dataset.open(run_dir / "dataset", verify=False)
        self.windows = evaluated_windows(self.dataset, history)
        self.facts = EventFacts(self.dataset)
        self._cache: dict[str, Any] = {}

    def item_effect(self, items: Ints, contexts: RankBatch, table_refs: list[Any]) -> tuple[Ints, Logits]:
        """The items, and variant -> their mean logits over the contexts."""
        measured = {name: score for name, score in self._scores(table_refs).items() if self._has_item_effect(name)}
        return items, mean_logits(contexts, items, measured, self.dataset.item_features)

    def rows(self, chunk: Ints, table_refs: list[Any], item_effect: list[Any], file: Path) -> int:
        """Writes the scored rows of some windows, in the order of events, and returns their number.

        Args:
            chunk: Indices of windows.
            table_refs: Reference of the item tables.
            item_effect: Reference of variant -> item effects [V], NaN if unknown.
            file: Output file.
        """
        batches = (self.windows.batch(chunk[i : i + WINDOWS_PER_PASS]) for i in range(0, len(chunk), WINDOWS_PER_PASS))
        event, logits = score_rows(batches, self._scores(table_refs))
        item = self.dataset.sequences.item_idx[event]
        shared = {name: values[item] for name, values in self._open("item_effect", item_effect).items()}
        for name, original in self.copies.items():
            logits |= {name + end: logits[original + end] for end in ("", OOV_SUFFIX) if original + end in logits}
            shared |= {name: shared[original]} if original in shared else {}
        for name, (logit, by_item) in self._ground_truth().items():
            logits[name], shared[name] = logit[event], by_item[event]
        draft = file.with_suffix(".draft")
        pq.write_table(self.facts.rows(event, logits, shared).to_table(), draft, compression="zstd")
        draft.replace(file)
        return len(event)

    def _has_item_effect(self, name: str) -> bool:
        return name in self.variants and self.variants[name].item_effect

    def _scores(self, table_refs: list[Any]) -> dict[str, Score]:
        """Variant -> its score; of a variant with its own model also the score of unknown targets."""
        found: dict[str, Score] = {}
        for name, table in self._tables(table_refs).items():
            score = found[name] = partial(self.scorers[name], items=table)
            if self.variants[name].own_model:
                found[name + OOV_SUFFIX] = partial(_score_unknown, score)
        return found

    def _ground_truth(self) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Oracle -> logits and item effects of all events; generated data only."""
        if "ground_truth" not in self._cache:
            sequences = self.dataset.sequences
            probabilities = {"content_oracle": sequences.p_click_content, "oracle": sequences.p_click}
            logits = {name: to_logit(truth) for name, truth in probabilities.items() if truth is not None}
            self._cache["ground_truth"] = {
                name: (logit.astype(np.float32), leave_one_out_item_mean(logit, sequences.item_idx).astype(np.float32))
                for name, logit in logits.items()
            }
        found: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]] = self._cache["ground_truth"]
        return found

    def _tables(self, table_refs: list[Any]) -> dict[str, ItemTable]:
        if "tables" not in self._cache:
            self._cache["tables"] = {
                name: ItemTable({column: torch.from_numpy(values.copy()) for column, values in columns.items()})
                for name, columns in ray.get(table_refs[0]).items()
            }
        found: dict[str, ItemTable] = self._cache["tables"]
        return found

    def _open(self, name: str, refs: list[Any]) -> dict[str, NDArray[np.float32]]:
        if name not in self._cache:
            self._cache[name] = {key: values.copy() for key, values in ray.get(refs[0]).items()}
        found: dict[str, NDArray[np.float32]] = self._cache[name]
        return found


def distinct_variants(variants: Sequence[Variant]) -> tuple[list[Variant], dict[str, str]]:
    """The variants whose scores differ, and for each other variant the name of the one whose scores it has."""
    kept: list[Variant] = []
    copies: dict[str, str] = {}
    for variant in variants:
        same = (
            one
            for one in kept
            if one.items is variant.items
            and (one.load, one.own_model, one.item_effect) == (variant.load, variant.own_model, variant.item_effect)
        )
        if (original := next(same, None)) is None:
            kept.append(variant)
        else:
            copies[variant.name] = original.name
    return kept, copies


def _score_unknown(score: Score, batch: RankBatch) -> Tensor:
    return score(unknown_targets(batch))


def score_test_rows(
    recipe: Recipe, dataset: Dataset, variants: Sequence[Variant], parts: Parts, directory: Path
) -> int:
    """Scores all test rows on `cluster.workers` actors, which write them as Parquet parts.

    Args:
        recipe: Of the run.
        dataset: Has the test rows.
        variants: Must include `oov`.
        parts: Kind -> directory of the run's artifacts.
        directory: For the parts, visible to all machines.

    Returns:
        Number of scored rows.
    """
    windows = evaluated_windows(dataset, recipe.ranker.max_history)
    if not len(windows):
        return 0
    variants, copies = distinct_variants(variants)
    pool = ActorPool(_actors(recipe, variants, copies, parts))
    tables = {
        variant.name: {name: values.numpy() for name, values in variant.items.columns.items()} for variant in variants
    }
    table_refs = [ray.put(tables)]
    by_size = np.argsort(-windows.weights, kind="stable")
    cold = np.unique(dataset.sequences.item_idx[windows.event_indices].astype(np.int64))
    cold = cold[dataset.cold[cold]]
    row_chunks, item_chunks = _chunks(by_size, WINDOWS_PER_PASS * PASSES_PER_CHUNK), _chunks(cold, ITEMS_PER_CHUNK)
    chosen = np.random.default_rng(recipe.seed).permutation(len(windows))[:CONTEXTS_PER_ITEM]
    contexts = ray.put(sample_contexts([windows.batch(chosen)], max_rows=CONTEXTS_PER_ITEM))
    metrics_log = MetricsLog(recipe.run_dir / "metrics" / "evaluate.jsonl")
    metrics_log.clear()
    total = len(row_chunks) + len(item_chunks)

    def map_all(call: Callable[[Any, Any], Any], work: Sequence[Any], before: int) -> list[Any]:
        found = []
        for part in pool.map_unordered(call, list(work)):
            found.append(part)
            metrics_log.write(before + len(found), total)
        return found

    item_effects = map_all(lambda actor, chunk: actor.item_effect.remote(chunk, contexts, table_refs), item_chunks, 0)
    item_effect = [ray.put(_by_item(item_effects, dataset.num_items + 1))]
    work = [(chunk, part_path(directory.absolute(), number)) for number, chunk in enumerate(row_chunks)]
    counts = map_all(
        lambda actor, part: actor.rows.remote(part[0], table_refs, item_effect, part[1]), work, len(item_chunks)
    )
    return sum(counts)


def _by_item(parts: Sequence[tuple[Ints, Logits]], vocabulary: int) -> Logits:
    """Variant -> [V], NaN for items in no part."""
    found = {name: np.full(vocabulary, np.nan, np.float32) for name in (parts[0][1] if parts else ())}
    for items, values in parts:
        for name in found:
            found[name][items] = values[name]
    return found


def _actors(recipe: Recipe, variants: Sequence[Variant], copies: Mapping[str, str], parts: Parts) -> list[Any]:
    cluster = recipe.cluster
    kind = ray.remote(num_cpus=cluster.cpus_per_worker, max_restarts=3, max_task_retries=3)(ScoringActor)
    return [
        kind.remote(
            recipe.run_dir.absolute(),
            [replace(variant, items=ItemTable({}), adapt=None) for variant in variants],
            copies,
            {part: path.absolute() for part, path in parts.items()},
            history=recipe.ranker.max_history,
            threads=cluster.threads_per_worker,
        )
        for _ in range(cluster.workers)
    ]


def _chunks(order: Ints, size: int) -> list[Ints]:
    return [order[start : start + size] for start in range(0, len(order), size)]
