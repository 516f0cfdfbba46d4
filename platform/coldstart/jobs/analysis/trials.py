"""One trial of a comparison: a contender with one setting, whose scores of the test rows are stored as an artifact.

A trial that exists already, with the same inputs, is not repeated, so an interrupted comparison can be resumed. Trials
are selected by their validation metric only; no test label is read here.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from coldstart.config import Artifact, Recipe, UserError, digest, read_artifact, write_artifact
from coldstart.data.batches import RankBatch, UserWindows
from coldstart.data.dataset import Dataset
from coldstart.data.item_table import ItemTable
from coldstart.data.schema import TEST
from coldstart.evaluation.protocol.scored_rows import EventFacts
from coldstart.evaluation.protocol.scoring import Logits, mean_logits, sample_contexts, score_rows
from coldstart.evaluation.protocol.variants import OOV_SUFFIX
from coldstart.jobs.analysis.contender_runs import METHOD_CONTENDERS, open_contender
from coldstart.jobs.analysis.scoring import WINDOWS_PER_PASS
from coldstart.jobs.analysis.serving_cost import method_encoder, serving_cost
from coldstart.jobs.analysis.single_modality import ScoredItems, score_single_modalities
from coldstart.jobs.pipeline import stage_seconds
from coldstart.methods.available import find_method
from coldstart.methods.base import ITEM_TABLE, SCORER, ItemEncoder, adapt
from coldstart.methods.baselines.contenders import CONTENDERS, Contender, ContenderInputs, Setting, build_contender
from coldstart.methods.baselines.content_similarity import fit_text, has_text, text_vectors
from coldstart.methods.baselines.encoder import TextEncoder
from coldstart.methods.baselines.similarity_scorer import TEXT
from coldstart.metrics.clicks import gauc
from coldstart.rankers import load_ranker
from coldstart.rankers.scorer import unknown_targets
from coldstart.training.ctr_trainer import TrainingContext

ENCODER_STAGES = ("align_coarse", "embed_items")
"""Stages of IDProxy that make what most contenders read."""
SOURCES = ("dataset", "ranker", ITEM_TABLE)
CONTEXTS_PER_ITEM = 64
"""Sampled users over whom the logit of an item is averaged to get its item effect."""
SCORES = "scores.parquet"
ITEM_EFFECT = "item_effect.parquet"
MODALITIES = "modalities.parquet"


def trial_path(run_dir: Path, name: str, setting: Setting, recipe: Recipe) -> Path:
    """Directory of a trial; recipe, inputs and setting determine it."""
    lineage = _lineage(run_dir)
    facts = digest([recipe.method.fine, recipe.mature_events, recipe.seed, lineage, dict(setting)])
    return run_dir / "trials" / f"{name}-{facts[:16]}"


def make_trial(recipe: Recipe, name: str, setting: Setting) -> Artifact:
    """Runs a trial of IDProxy or a baseline, or opens it if it exists.

    Args:
        recipe: Of IDProxy's run of one seed, which has ranker and item table.
        name: Key of `CONTENDERS`.
        setting: From the grid of that kind.
    """
    run_dir = recipe.run_dir.absolute()
    path = trial_path(run_dir, name, setting, recipe)
    if (made := _find_trial(path)) is not None:
        return made
    start = time.monotonic()
    torch.set_num_threads(recipe.cluster.threads_per_worker)
    lineage = _lineage(run_dir)
    dataset, items, encoders = _open_inputs(run_dir, lineage[ITEM_TABLE], recipe.seed)
    # Loaded for every trial, because a contender may change it.
    ranker = load_ranker(run_dir / "ranker")
    mature = dataset.mature(ranker.trained.numpy(), recipe.mature_events)
    context = TrainingContext(seed=recipe.seed, gauc=gauc)
    inputs = ContenderInputs(ranker, dataset.sequences, items, mature, recipe.method.fine, context)
    contender = build_contender(name, inputs, setting)
    spent = time.monotonic() - start
    if CONTENDERS[name].reads_encoder:
        spent += stage_seconds(run_dir, ENCODER_STAGES)
        encoders = (method_encoder(recipe), *encoders)
    source = _Source(dataset, run_dir / ITEM_TABLE, encoders, items.columns[TEXT], alone=CONTENDERS[name].method)
    return _write_trial(path, lineage, contender, source, (name, setting, recipe.seed, spent))


def make_method_trial(recipe: Recipe, name: str, setting: Setting) -> Artifact:
    """Runs the trial of a method whose stages are done, or opens it if it exists.

    Args:
        recipe: From `contender_recipe`.
        name: Key of `METHOD_CONTENDERS`.
        setting: From its grid.
    """
    scorer = read_artifact(recipe.run_dir / SCORER, SCORER, verify=False)
    facts = digest([name, dict(setting), recipe.seed, scorer.fingerprint])
    path = recipe.run_dir.absolute() / "trials" / f"{name}-{facts[:16]}"
    if (made := _find_trial(path)) is not None:
        return made
    torch.set_num_threads(recipe.cluster.threads_per_worker)
    dataset = Dataset.open(recipe.run_dir / "dataset", verify=False)
    stages = [stage.name for stage in find_method(recipe.method.name).stages(recipe)]
    spent = stage_seconds(recipe.run_dir, stages)
    lineage = {**scorer.lineage, SCORER: scorer.fingerprint}
    alone = METHOD_CONTENDERS[name][1].tuned_as is None
    source = _Source(dataset, recipe.run_dir / ITEM_TABLE, (method_encoder(recipe),), alone=alone)
    return _write_trial(path, lineage, open_contender(recipe), source, (name, setting, recipe.seed, spent))


@dataclass(frozen=True)
class _Source:
    """What a contender reads: dataset, encoders and their item table, and text vectors [V, w] if it may read these.

    With `alone`, it is also scored with image and text alone.
    """

    dataset: Dataset
    item_table: Path
    encoders: Sequence[ItemEncoder]
    text: Tensor | None = None
    alone: bool = False


def _find_trial(path: Path) -> Artifact | None:
    try:
        return read_artifact(path, "trial")
    except UserError:
        return None


def _write_trial(
    path: Path,
    lineage: dict[str, str],
    contender: Contender,
    source: _Source,
    facts: tuple[str, Setting, int, float],
) -> Artifact:
    """Scores the test rows with a trained contender.

    Args:
        path: Of the trial.
        lineage: Its inputs.
        contender: Trained.
        source: Has the test rows.
        facts: Name, setting, seed and seconds of training.
    """
    (name, setting, seed, spent), dataset = facts, source.dataset
    metadata = {
        "variant": name,
        "setting": dict(setting),
        "valid_gauc": round(contender.valid_gauc(dataset.sequences), 5),
        "parameters": contender.parameters,
        "epochs": contender.epochs,
        "seconds": round(spent, 1),
    }
    history = contender.scorer.max_history
    with write_artifact(path, "trial", lineage, metadata) as draft:
        event, logits, cold, item_effect = _score(contender, dataset, history=history, seed=seed)
        pq.write_table(
            pa.table({"event": event, "logit": logits["served"], "oov_logit": logits["unknown"]}), draft / SCORES
        )
        pq.write_table(pa.table({"item_idx": cold, "item_effect": item_effect["served"]}), draft / ITEM_EFFECT)
        if source.alone:
            _score_modalities(contender, source, event, draft / MODALITIES)
        metadata |= serving_cost(contender, source.encoders, dataset)
    return read_artifact(path, "trial")


def read_trial(trial: Artifact, vocabulary: int) -> tuple[NDArray[np.int64], Logits, NDArray[np.float32]]:
    """Events [n] of the test rows, logits `variant` and `variant` + OOV_SUFFIX, and item effects [V], NaN if warm."""
    name = trial.metadata["variant"]
    scores, item_effect = pq.read_table(trial.path / SCORES), pq.read_table(trial.path / ITEM_EFFECT)
    by_item = np.full(vocabulary, np.nan, np.float32)
    by_item[np.asarray(item_effect["item_idx"])] = np.asarray(item_effect["item_effect"])
    logits = {name: np.asarray(scores["logit"]), name + OOV_SUFFIX: np.asarray(scores["oov_logit"])}
    return np.asarray(scores["event"]), logits, by_item


def read_modalities(trial: Artifact) -> tuple[NDArray[np.int64], Logits] | None:
    """Events [n] of cold items that have image and text, and the logits with each alone; None if not scored."""
    file = trial.path / MODALITIES
    if not file.is_file():
        return None
    table = pq.read_table(file)
    event, *logits = (np.asarray(column) for column in table.columns)
    return event, dict(zip(table.column_names[1:], logits, strict=True))


def _lineage(run_dir: Path) -> dict[str, str]:
    return {kind: read_artifact(run_dir / kind, kind, verify=False).fingerprint for kind in SOURCES}


@lru_cache(maxsize=1)
def _open_inputs(run_dir: Path, fingerprint: str, seed: int) -> tuple[Dataset, ItemTable, Sequence[ItemEncoder]]:
    """Dataset, item table with text vectors [V, w], and their encoder, if the catalog has text.

    They are cached between the trials of a process.
    """
    dataset = Dataset.open(run_dir / "dataset", verify=False)
    encoded = ItemTable.open(run_dir / ITEM_TABLE).columns
    svd = fit_text(dataset, seed=seed) if has_text(dataset) else None
    items = ItemTable({**encoded, TEXT: text_vectors(dataset, svd)})
    return dataset, items, () if svd is None else (TextEncoder(svd),)


def _score(
    contender: Contender, dataset: Dataset, *, history: int, seed: int
) -> tuple[NDArray[np.int64], Logits, NDArray[np.int64], Logits]:
    """Events and logits in the order of events; then cold items and their item effects."""
    windows = UserWindows(dataset.sequences, history=history, splits=[TEST])
    if not len(windows):
        raise UserError("the dataset has no test rows; raise data.split.test and prepare it again")

    def served(batch: RankBatch) -> Tensor:
        logits: Tensor = contender.scorer(batch, contender.items)
        return logits

    def unknown(batch: RankBatch) -> Tensor:
        return served(unknown_targets(batch))

    event, logits = score_rows(
        windows.iter_eval(windows_per_step=WINDOWS_PER_PASS), {"served": served, "unknown": unknown}
    )
    chosen = np.random.default_rng(seed).permutation(len(windows))[:CONTEXTS_PER_ITEM]
    contexts = sample_contexts([windows.batch(chosen)], max_rows=CONTEXTS_PER_ITEM)
    items = np.unique(dataset.sequences.item_idx[event].astype(np.int64))
    items = items[dataset.cold[items]]
    item_effect = mean_logits(contexts, items, {"served": served}, dataset.item_features)
    return event, logits, items, item_effect


def _score_modalities(contender: Contender, source: _Source, event: NDArray[np.int64], file: Path) -> None:
    """Writes the logits of the events of a sample of cold items with each of the two modalities alone."""

    def adapted(modality: str, items: NDArray[np.int64], columns: ItemTable) -> ItemTable:
        words = {} if source.text is None else {TEXT: source.text[items] * (modality == "text")}
        return adapt(contender.adaptor, ItemTable({**columns.columns, **words})).select(contender.scorer.inputs)

    rows = EventFacts(source.dataset).rows(event, {}, {})
    rows = rows.take(rows.train_events == 0)
    scored = ScoredItems(contender.scorer, contender.items, adapted)
    found = score_single_modalities(
        scored, rows, source.dataset, source.item_table, history=contender.scorer.max_history
    )
    if found is not None:
        rows, logits = found
        pq.write_table(pa.table({"event": rows.event, **logits}), file)
