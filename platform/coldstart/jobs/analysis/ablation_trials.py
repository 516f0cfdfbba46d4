"""One trial of the ablation: trains a baseline with one setting and stores its scores of the test rows as an artifact.

A trial that exists already, with the same inputs, is not repeated, so an interrupted ablation can be resumed. Trials
are selected by their validation metric only; no test label is read here.
"""

import time
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from coldstart.config import Artifact, Recipe, UserError, digest, read_artifact, write_artifact
from coldstart.data.batches import UserWindows
from coldstart.data.dataset import Dataset
from coldstart.data.item_table import ItemTable
from coldstart.data.schema import TEST
from coldstart.evaluation.protocol.scoring import Logits, mean_logits, sample_contexts, score_rows
from coldstart.evaluation.protocol.variants import OOV_SUFFIX
from coldstart.methods.base import ITEM_TABLE
from coldstart.methods.baselines.trained import Baseline, BaselineInputs, Setting, build_baseline
from coldstart.metrics.clicks import gauc
from coldstart.rankers import load_ranker
from coldstart.training.ctr_trainer import TrainingContext, slot_score

SOURCES = ("dataset", "ranker", ITEM_TABLE)
WINDOWS_PER_PASS = 64
CONTEXTS_PER_ITEM = 64
"""Sampled users over whom the logit of an item is averaged to get its item effect."""
SCORES = "scores.parquet"
ITEM_EFFECT = "item_effect.parquet"


def trial_path(run_dir: Path, name: str, setting: Setting, recipe: Recipe) -> Path:
    """Directory of a trial; recipe, inputs and setting determine it."""
    lineage = _lineage(run_dir)
    facts = digest([recipe.method.fine, recipe.method.coarse.min_events, recipe.seed, lineage, dict(setting)])
    return run_dir / "trials" / f"{name}-{facts[:16]}"


def make_trial(recipe: Recipe, name: str, setting: Setting) -> Artifact:
    """Runs a trial, or opens it if it exists.

    Args:
        recipe: Of the run of one seed, which has ranker and item table.
        name: Kind of baseline.
        setting: From the grid of that kind.
    """
    run_dir = recipe.run_dir.absolute()
    path = trial_path(run_dir, name, setting, recipe)
    try:
        return read_artifact(path, "trial")
    except UserError:
        pass
    start = time.monotonic()
    torch.set_num_threads(recipe.cluster.threads_per_worker)
    dataset, items = _open_inputs(run_dir, _lineage(run_dir)[ITEM_TABLE])
    # Loaded for every trial, because a baseline may change it.
    ranker = load_ranker(run_dir / "ranker")
    mature = dataset.mature(ranker.trained.numpy(), recipe.method.coarse.min_events)
    context = TrainingContext(seed=recipe.seed, gauc=gauc)
    inputs = BaselineInputs(ranker, dataset.sequences, items, mature, recipe.method.fine, context)
    baseline = build_baseline(name, inputs, setting)
    metadata = {
        "variant": name,
        "setting": dict(setting),
        "valid_gauc": round(baseline.valid_gauc(inputs), 5),
        "parameters": baseline.parameters,
        "epochs": baseline.epochs,
    }
    with write_artifact(path, "trial", _lineage(run_dir), metadata) as draft:
        event, logits, cold, item_effect = _score(baseline, dataset, history=ranker.max_history, seed=recipe.seed)
        pq.write_table(
            pa.table({"event": event, "logit": logits["served"], "oov_logit": logits["cold"]}), draft / SCORES
        )
        pq.write_table(pa.table({"item_idx": cold, "item_effect": item_effect["served"]}), draft / ITEM_EFFECT)
        metadata["seconds"] = round(time.monotonic() - start, 1)
    return read_artifact(path, "trial")


def read_trial(trial: Artifact, vocabulary: int) -> tuple[NDArray[np.int64], Logits, NDArray[np.float32]]:
    """Events [n] of the test rows, logits `variant` and `variant` + OOV_SUFFIX, and item effects [V], NaN if warm."""
    name = trial.metadata["variant"]
    scores, item_effect = pq.read_table(trial.path / SCORES), pq.read_table(trial.path / ITEM_EFFECT)
    by_item = np.full(vocabulary, np.nan, np.float32)
    by_item[np.asarray(item_effect["item_idx"])] = np.asarray(item_effect["item_effect"])
    logits = {name: np.asarray(scores["logit"]), name + OOV_SUFFIX: np.asarray(scores["oov_logit"])}
    return np.asarray(scores["event"]), logits, by_item


def _lineage(run_dir: Path) -> dict[str, str]:
    return {kind: read_artifact(run_dir / kind, kind, verify=False).fingerprint for kind in SOURCES}


@lru_cache(maxsize=1)
def _open_inputs(run_dir: Path, fingerprint: str) -> tuple[Dataset, ItemTable]:
    """Dataset and item table, cached between the trials of a process."""
    dataset = Dataset.open(run_dir / "dataset", verify=False)
    return dataset, ItemTable.open(run_dir / ITEM_TABLE)


def _score(
    baseline: Baseline, dataset: Dataset, *, history: int, seed: int
) -> tuple[NDArray[np.int64], Logits, NDArray[np.int64], Logits]:
    """Events and logits in the order of events; then cold items and their item effects."""
    windows = UserWindows(dataset.sequences, history=history, splits=[TEST])
    if not len(windows):
        raise UserError("the dataset has no test rows; raise data.split.test and prepare it again")
    served = slot_score(baseline.model, baseline.served)
    cold = slot_score(baseline.model, baseline.cold[:1].expand_as(baseline.served))
    event, logits = score_rows(windows.iter_eval(windows_per_step=WINDOWS_PER_PASS), {"served": served, "cold": cold})
    order = np.argsort(event)
    chosen = np.random.default_rng(seed).permutation(len(windows))[:CONTEXTS_PER_ITEM]
    contexts = sample_contexts([windows.batch(chosen)], max_rows=CONTEXTS_PER_ITEM)
    items = np.unique(dataset.sequences.item_idx[event].astype(np.int64))
    items = items[dataset.cold[items]]
    item_effect = mean_logits(contexts, items, {"served": served}, dataset.item_features)
    return event[order], {name: values[order] for name, values in logits.items()}, items, item_effect
