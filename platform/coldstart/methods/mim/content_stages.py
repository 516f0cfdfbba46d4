"""Stages 1 and 2 of MIM as workloads: the content encoder is trained on Ray Train, with items from Ray Data."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coldstart.config import Artifact, Recipe, UserError, read_artifact, write_artifact
from coldstart.config.recipe import settings_of
from coldstart.data.dataset import Dataset
from coldstart.data.schema import DIGESTS
from coldstart.data.streaming import stream_items
from coldstart.encoders.dual_encoder import DualEncoder
from coldstart.encoders.pretrained_towers import create_pretrained_dual_encoder
from coldstart.encoders.tiny_dual_encoder import create_tiny_dual_encoder
from coldstart.methods.mim.config import Settings
from coldstart.methods.mim.content_encoder import ContentEncoder
from coldstart.methods.mim.content_training import Curve, align_modalities, fine_tune_content
from coldstart.methods.mim.pairs import next_click_pairs
from coldstart.methods.mim.tower_features import TowerFeatures, are_frozen, compute_features
from coldstart.training.contrastive_trainer import ContrastiveContext, ItemStream
from coldstart.training.distributed import device, rank
from coldstart.training.retrieval_curve import before_and_after
from coldstart.training.stage import TrainingStage

ALIGN, FINE_TUNE = "align_modalities", "fine_tune_content"
ALIGNED, ENCODER = "aligned_encoder", "encoder"
"""Kinds of the encoder after stage 1 and after stage 2."""
TOWERS = "towers"
"""Kind of the tiny dual encoder that a run creates for its dataset."""
BLOCK_ROWS = 256
"""Items per Ray Data task."""


def run_align(recipe: Recipe) -> Artifact:
    """Stage 1: aligns both towers on the items with image and text, and writes `<run_dir>/aligned_encoder`.

    Without such items the towers stay as they are, and the metrics log says so.

    Raises:
        UserError: the dataset or the towers are missing, or there are fewer items with both than a batch.
    """
    dataset = Dataset.open(recipe.run_dir.absolute() / "dataset")
    towers = _towers(recipe, dataset)
    return _run_stage(recipe, ALIGN, ALIGNED, {"dataset": dataset.artifact.fingerprint}, start=towers)


def run_fine_tune(recipe: Recipe) -> Artifact:
    """Stage 2, C-SFT: trains on pairs of clicks, and writes `<run_dir>/encoder`.

    Raises:
        UserError: an earlier stage's result is missing or of another dataset, or there are fewer pairs than a batch.
    """
    run_dir = recipe.run_dir.absolute()
    dataset, aligned = Dataset.open(run_dir / "dataset"), read_artifact(run_dir / ALIGNED, ALIGNED)
    if aligned.lineage["dataset"] != dataset.artifact.fingerprint:
        raise UserError(f"the encoder in {aligned.path} is from another dataset; run {ALIGN} again")
    lineage = {**aligned.lineage, ALIGNED: aligned.fingerprint}
    return _run_stage(recipe, FINE_TUNE, ENCODER, lineage, start=aligned.path)


def _run_stage(recipe: Recipe, name: str, kind: str, lineage: dict[str, str], *, start: Path) -> Artifact:
    run_dir, settings = recipe.run_dir.absolute(), settings_of(recipe, Settings)
    parts = [settings.towers, settings.align if name == ALIGN else settings.fine_tune, recipe.content]
    TrainingStage.of(recipe, name, parts, lineage, kind=kind, start=start).run(_worker)
    return read_artifact(run_dir / kind, kind)


def _worker(stage: TrainingStage) -> None:
    recipe, run_dir, start, kind = stage.recipe, stage.run_dir, stage.options["start"], stage.options["kind"]
    settings, context = settings_of(recipe, Settings), stage.contrastive_training
    dataset = Dataset.open(run_dir / "dataset", verify=False)
    encoder = _start(recipe, start, stage.name).to(device())
    read: ItemStream = partial(stream_items, run_dir / "dataset", block_rows=BLOCK_ROWS)
    features = None
    if are_frozen(encoder.towers):
        features = TowerFeatures.load(start) if stage.name == FINE_TUNE else None
        features = features or compute_features(encoder.towers.eval(), dataset.num_items, read, _progress(context))
        read = features.read
    if stage.name == ALIGN:
        both, groups = _both_modalities(recipe, dataset)
        curve: Curve = []
        if len(both):
            curve = align_modalities(encoder, both, groups, settings.align, read, context)
        elif rank() == 0 and context.metrics_log is not None:
            context.metrics_log.write(1, 1, note="no item has image and text in use: the towers stay unaligned")
        count = len(both)
    else:
        pairs = next_click_pairs(dataset.sequences, window_s=settings.fine_tune.window_s)
        groups = dataset.content_groups(recipe.content)
        curve = fine_tune_content(encoder, pairs, groups, settings.fine_tune, read, context)
        count = len(pairs)
    if rank() == 0:
        metadata = {"width": encoder.width, "pairs": count, **before_and_after(curve)}
        with write_artifact(run_dir / kind, kind, stage.inputs, metadata) as draft:
            encoder.save(draft)
            if features is not None and stage.name == ALIGN:
                features.save(draft)


def _progress(context: ContrastiveContext) -> Callable[[int, int], None]:
    """Tells on the first rank how many items have passed the frozen towers."""

    def write(done: int, total: int) -> None:
        if rank() == 0 and context.metrics_log is not None:
            context.metrics_log.write(0, 1, items_encoded=done, items=total)

    return write


def _start(recipe: Recipe, path: Path, stage: str) -> ContentEncoder:
    """The encoder that a stage trains further."""
    if stage == ALIGN:
        towers = DualEncoder.load(path, content=recipe.content)
        torch.manual_seed(recipe.seed)
        encoder = ContentEncoder(towers)
    else:
        encoder = ContentEncoder.load(path)
    trainable = settings_of(recipe, Settings).towers.trainable
    encoder.towers.set_trainable(trainable.image, trainable.text, field="method.towers.trainable")
    return encoder


def _both_modalities(recipe: Recipe, dataset: Dataset) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Items with image and text in use, and groups `[V, 2]` of equal text and of equal image."""
    table = dataset.items(["title", "text", "image", *DIGESTS])
    has_text = np.zeros(len(table), bool)
    for name in ("title", "text"):
        has_text |= np.array([bool(value and value.strip()) for value in table[name].to_pylist()], bool)
    has_image = np.asarray(table["image"].is_valid())
    both = has_text & has_image & recipe.content.use_text & recipe.content.use_image
    groups = np.stack([np.asarray(table[name], np.int64) for name in DIGESTS], axis=1)
    return np.flatnonzero(both) + 1, np.concatenate([np.zeros((1, 2), np.int64), groups])


def _towers(recipe: Recipe, dataset: Dataset) -> Path:
    """Directory of the dual encoder; creates the tiny or the pre-trained one if this run does not have it yet."""
    towers = settings_of(recipe, Settings).towers
    if towers.path not in ("tiny", "pretrained"):
        path = Path(towers.path).absolute()
        DualEncoder.load(path)
        return path
    path = recipe.run_dir.absolute() / TOWERS
    lineage = {"dataset": dataset.artifact.fingerprint}
    sizes = {"width": towers.width, "image_size": towers.image_size, "max_text_tokens": towers.max_text_tokens}
    metadata = {**sizes, "seed": recipe.seed, "towers": towers.path}
    if path.is_dir():
        existing = read_artifact(path, TOWERS)
        if existing.lineage == lineage and existing.metadata == metadata:
            return path
    with write_artifact(path, TOWERS, lineage, metadata) as draft:
        if towers.path == "tiny":
            create_tiny_dual_encoder(draft, dataset.texts(), **sizes, seed=recipe.seed)
        else:
            create_pretrained_dual_encoder(draft, **sizes, seed=recipe.seed)
    return path
