"""One trial of the ablation: a rival made with one setting, and its scores of the test rows, as an artifact.

A trial that lies there and was made from the same things is not made again, so a killed ablation goes on where it was.
Test labels are not read here: a trial is chosen by its validation figure alone.
"""

import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from coldstart.config import Artifact, Recipe, UserError, digest, read_artifact, write_artifact
from coldstart.data.batches import UserWindows
from coldstart.data.contract import TEST
from coldstart.data.dataset import Dataset
from coldstart.encoders.proxies import read_proxies
from coldstart.evaluation.ablation import CONTEXT
from coldstart.evaluation.metrics import gauc
from coldstart.evaluation.scoring import Logits, mean_logits, sample_contexts, score_rows
from coldstart.rankers import load_ranker
from coldstart.training.rivals import Given, Rival, Setting, make_rival

SOURCES = ("dataset", "ranker", "proxies")
WINDOWS_PER_PASS = 64
CONTEXTS_PER_ITEM = 64
"""Sampled users over whom a logit is averaged to get an item's appeal."""
SCORES = "scores.parquet"
APPEAL = "appeal.parquet"


def trial_path(run_dir: Path, name: str, setting: Setting, recipe: Recipe) -> Path:
    """Where a trial lies: another recipe, other sources or another setting have another place."""
    lineage = _lineage(run_dir)
    facts = digest([recipe.fine, recipe.coarse.min_events, recipe.seed, lineage, dict(setting)])
    return run_dir / "trials" / f"{name}-{facts[:16]}"


def make_trial(recipe: Recipe, name: str, setting: Setting) -> Artifact:
    """Makes a trial, or opens it if it is there.

    Args:
        recipe: Of the run of one seed, whose ranker and proxies are there.
        name: Kind of rival.
        setting: Of its grid.
    """
    run_dir = recipe.run_dir.absolute()
    path = trial_path(run_dir, name, setting, recipe)
    try:
        return read_artifact(path, "trial")
    except UserError:
        pass
    began = time.monotonic()
    torch.set_num_threads(recipe.cluster.threads_per_worker)
    dataset, coarse, states = _opened(run_dir, _lineage(run_dir)["proxies"])
    # Loaded anew: a rival may change it.
    ranker = load_ranker(run_dir / "ranker")
    mature = (dataset.train_counts >= recipe.coarse.min_events) & ranker.trained.numpy()
    given = Given(ranker, dataset.sequences, coarse, states, mature, recipe.fine, recipe.seed, gauc)
    rival = make_rival(name, given, setting)
    about = {
        "variant": name,
        "setting": dict(setting),
        "valid_gauc": round(rival.valid_gauc(given), 5),
        "parameters": rival.parameters,
        "epochs": rival.epochs,
    }
    with write_artifact(path, "trial", _lineage(run_dir), about) as draft:
        event, logits, items, appeal = _score(rival, dataset, history=ranker.history, seed=recipe.seed)
        pq.write_table(pa.table({"event": event, "logit": logits["served"], "context": logits["cold"]}), draft / SCORES)
        pq.write_table(pa.table({"item_idx": items, "appeal": appeal["served"]}), draft / APPEAL)
        about["seconds"] = round(time.monotonic() - began, 1)
    return read_artifact(path, "trial")


def read_trial(trial: Artifact, vocabulary: int) -> tuple[NDArray[np.int64], Logits, NDArray[np.float32]]:
    """Events [n] of the test rows, logits `variant` and `variant` + CONTEXT of them, and appeal [V], NaN if warm."""
    name = trial.about["variant"]
    scores, appeal = pq.read_table(trial.path / SCORES), pq.read_table(trial.path / APPEAL)
    by_item = np.full(vocabulary, np.nan, np.float32)
    by_item[np.asarray(appeal["item_idx"])] = np.asarray(appeal["appeal"])
    logits = {name: np.asarray(scores["logit"]), name + CONTEXT: np.asarray(scores["context"])}
    return np.asarray(scores["event"]), logits, by_item


def _lineage(run_dir: Path) -> dict[str, str]:
    return {kind: read_artifact(run_dir / kind, kind, verify=False).fingerprint for kind in SOURCES}


@lru_cache(maxsize=1)
def _opened(run_dir: Path, fingerprint: str) -> tuple[Dataset, NDArray[np.float32], NDArray[np.float32]]:
    """Dataset and proxies, kept from one trial to the next in the same process."""
    dataset = Dataset.open(run_dir / "dataset", verify=False)
    proxies = read_artifact(run_dir / "proxies", "proxies", verify=False)
    return dataset, *read_proxies(proxies.path, dataset.num_items, groups=int(proxies.about["groups"]))


def _score(
    rival: Rival, dataset: Dataset, *, history: int, seed: int
) -> tuple[NDArray[np.int64], Logits, NDArray[np.int64], Logits]:
    """Events and logits in the order of events, then cold items and their appeal."""
    windows = UserWindows(dataset.sequences, history=history, splits=[TEST])
    if not len(windows):
        raise UserError("the dataset has no test rows; raise data.split.test and prepare it again")
    tables: Mapping[str, Any] = {"served": rival.served, "cold": rival.cold[:1].expand_as(rival.served)}
    event, logits = score_rows(rival.model, windows.sweep(windows_per_step=WINDOWS_PER_PASS), tables)
    order = np.argsort(event)
    chosen = np.random.default_rng(seed).permutation(len(windows))[:CONTEXTS_PER_ITEM]
    contexts = sample_contexts([windows.batch(chosen)], most=CONTEXTS_PER_ITEM)
    items = np.unique(dataset.sequences.item_idx[event].astype(np.int64))
    items = items[dataset.train_counts[items] == 0]
    appeal = mean_logits(rival.model, contexts, items, {"served": rival.served}, dataset.item_features)
    return event[order], {name: values[order] for name, values in logits.items()}, items, appeal
