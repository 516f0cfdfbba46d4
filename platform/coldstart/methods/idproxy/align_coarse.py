"""Coarse alignment: trains the encoder to match frozen ID rows from content, on Ray Train with DeepSpeed."""

import json
import logging
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from coldstart.config import Artifact, MetricsLog, Recipe, UserError, digest, read_artifact, write_artifact
from coldstart.config.recipe import Encoder, settings_of
from coldstart.data.dataset import Dataset
from coldstart.data.streaming import stream_items
from coldstart.encoders.check import check_mllm
from coldstart.methods.idproxy.coarse_training import AlignmentJob, NonFiniteLossError, train_coarse
from coldstart.methods.idproxy.config import Settings
from coldstart.methods.idproxy.holdout import split_holdout
from coldstart.methods.mllm_checkpoint import mllm_checkpoint, recorded_name
from coldstart.rankers import IdEmbeddings, load_id_embeddings
from coldstart.training.checkpoint import Checkpoints
from coldstart.training.launch import PREEMPTED, launch, preemption_requested

STAGE = "align_coarse"
PROGRESS = logging.getLogger("coldstart.stages")
_MAX_NAMED_ITEMS = 20
_BLOCK_BYTES = 128 * 2**20
"""Target size of a Ray Data block."""


def run(recipe: Recipe, extend: Callable[[Path], None] | None = None) -> Artifact:
    """Trains on the run's mature items and writes `<run_dir>/encoder`.

    An interrupted run continues from its newest complete checkpoint.

    Args:
        recipe: Of IDProxy.
        extend: Adds files of another encoder to the directory, before it becomes visible.

    Raises:
        UserError: the result of an earlier stage or the MLLM is missing, or too few items are mature.
    """
    run_dir = recipe.run_dir.absolute()
    dataset = Dataset.open(run_dir / "dataset")
    ranker = read_artifact(run_dir / "ranker", "ranker")
    ranker_dataset, fingerprint = ranker.lineage.get("dataset", ""), dataset.artifact.fingerprint
    if ranker_dataset != fingerprint:
        raise UserError(
            f"the ID table in {ranker.path} is from another dataset ({ranker_dataset[:12]}) than "
            f"{dataset.artifact.path} ({fingerprint[:12]}), so its rows belong to other items; run train_ranker or "
            "import_ranker on this dataset"
        )
    lineage = {"dataset": fingerprint, "ranker": ranker.fingerprint}
    mllm = mllm_checkpoint(recipe, dataset)
    ids = load_id_embeddings(ranker.path)
    counts = check_mllm(recipe.encoder, mllm, width=ids.rows.shape[1], content=recipe.content)
    PROGRESS.info("%s parameters are trained, %s are frozen", f"{counts.trained:,}", f"{counts.frozen:,}")
    parameters = {"trained_parameters": counts.trained, "frozen_parameters": counts.frozen}
    # The checkpoint settings and the number of ranks do not change the result, so they may change on resume.
    coarse = settings_of(recipe, Settings).coarse.model_dump(
        mode="json", exclude={"checkpoint_every", "checkpoint_async"}
    )
    key = digest([recipe.encoder, recipe.content, coarse, recipe.mature_events, recipe.seed, mllm, lineage])
    job = alignment_job(recipe, dataset, ids, mllm=mllm, key=key)

    metrics_log = MetricsLog(job.metrics_log)
    if Checkpoints(job.checkpoints, key).newest() is None:
        metrics_log.clear()
        metrics_log.write(0, job.total_steps)
    payload = {"recipe": recipe.model_dump(mode="json"), "run_dir": str(run_dir), "mllm": mllm, "key": key}
    storage = run_dir / "checkpoints"
    launch(_worker, payload, cluster=recipe.cluster, name=STAGE, storage=storage, inputs=lineage, elastic=True)

    with write_artifact(
        run_dir / "encoder",
        "encoder",
        lineage,
        {**_metadata(job, metrics_log), **parameters, "mllm": recorded_name(recipe, mllm)},
    ) as draft:
        shutil.copytree(job.result, draft, dirs_exist_ok=True)
        if extend is not None:
            extend(draft)
    shutil.rmtree(job.checkpoints.parent, ignore_errors=True)
    return read_artifact(run_dir / "encoder", "encoder")


def alignment_job(recipe: Recipe, dataset: Dataset, ids: IdEmbeddings, *, mllm: str, key: str) -> AlignmentJob:
    """The job of the ranks; the same on the driver and on every rank.

    Raises:
        UserError: no item is mature, or fewer than one batch.
    """
    settings, counts = settings_of(recipe, Settings).coarse, dataset.train_counts
    known = ids.trained.numpy()
    mature = np.flatnonzero(dataset.mature(known, recipe.mature_events))
    if not len(mature):
        raise UserError(
            f"no item with an ID row has mature_events {recipe.mature_events} train events ({known.sum()} of "
            f"{dataset.num_items} items have a row; the maximum of their train events is "
            f"{counts[known].max(initial=0)}, the median of all items is {int(np.median(counts[1:]))}); lower "
            "mature_events"
        )
    train, heldout = split_holdout(mature, settings, seed=recipe.seed)
    if settings.batch > len(train):
        raise UserError(
            f"method.coarse.batch {settings.batch} exceeds the {len(train)} mature items in training "
            f"({len(mature)} have mature_events {recipe.mature_events}, of which "
            f"method.coarse.holdout_fraction excludes {len(heldout)}); lower method.coarse.batch or "
            "mature_events"
        )
    run_dir = recipe.run_dir.absolute()
    checkpoints = run_dir / "checkpoints" / STAGE / key[:16]
    return AlignmentJob(
        mllm=mllm,
        encoder=recipe.encoder,
        content=recipe.content,
        coarse=settings,
        seed=recipe.seed,
        train=np.sort(train),
        heldout=np.sort(heldout),
        groups=dataset.content_groups(recipe.content),
        events=counts,
        metrics_log=run_dir / "metrics" / f"{STAGE}.jsonl",
        checkpoints=checkpoints,
        result=checkpoints / "result",
        key=key,
    )


def block_rows(encoder: Encoder) -> int:
    """Items per Ray Data task, limited so that their pixels fit into one block."""
    # Three channels in float32; some families encode a still image as two frames.
    pixels = 2 * 3 * 4 * encoder.image_size**2
    return max(1, min(256, _BLOCK_BYTES // pixels))


def _worker(payload: dict[str, Any]) -> str | None:
    run_dir = Path(payload["run_dir"])
    recipe = Recipe.model_validate(payload["recipe"])
    recipe = recipe.model_copy(update={"paths": recipe.paths.model_copy(update={"runs": run_dir.parent})})
    dataset = Dataset.open(run_dir / "dataset", verify=False)
    ids = load_id_embeddings(run_dir / "ranker")
    job = alignment_job(recipe, dataset, ids, mllm=payload["mllm"], key=payload["key"])
    try:
        stream = partial(stream_items, run_dir / "dataset", block_rows=block_rows(job.encoder))
        finished = train_coarse(job, ids.rows, stream, preemption_requested)
    except NonFiniteLossError as error:
        raise UserError(_explain(error, job, dataset)) from error
    return None if finished else PREEMPTED


def _explain(error: NonFiniteLossError, job: AlignmentJob, dataset: Dataset) -> str:
    """The error message with item ids and the newest checkpoint."""
    ids = dataset.items(["item_id"])["item_id"].take(error.items - 1).to_pylist()
    more = f" and {len(ids) - _MAX_NAMED_ITEMS} more" if len(ids) > _MAX_NAMED_ITEMS else ""
    found = Checkpoints(job.checkpoints, job.key).newest()
    resume = f"the same command continues from step {found['step']}" if found else "there is no checkpoint yet"
    return (
        f"{error.quantity} of step {error.step} is not finite, for item_id {', '.join(ids[:_MAX_NAMED_ITEMS])}{more}; "
        f"{resume}. Check these items, or lower method.coarse.learning_rate {job.coarse.learning_rate:g}, which "
        "restarts the training"
    )


def _metadata(job: AlignmentJob, metrics_log: MetricsLog) -> dict[str, Any]:
    lines = metrics_log.read()
    evaluations = [line for line in lines if "mean_cosine" in line]
    best = max(evaluations, key=lambda line: line["mean_cosine"], default={})
    encoder = json.loads((job.result / "encoder.json").read_text())
    metrics = (
        "recall_at_1",
        "recall_at_10",
        "chance_recall_at_10",
        "mean_rank",
        "mean_reciprocal_rank",
        "mean_cosine",
        "uniformity",
    )
    return {
        "width": encoder["width"],
        "hidden": encoder["hidden"],
        "groups": len(encoder["layers"]),
        "layers": encoder["layers"],
        "content": job.content.model_dump(),
        "mature_items": len(job.train) + len(job.heldout),
        "heldout_items": len(job.heldout),
        "steps": job.total_steps,
        "best_step": best.get("done", job.total_steps),
        **{name: round(best[name], 5) for name in metrics if name in best},
    }
