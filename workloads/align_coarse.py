"""Align coarse: trains the encoder to find frozen ID rows from content, on Ray Train with DeepSpeed."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from coldstart.alignment.kept_out import split_mature
from coldstart.config import Artifact, Journal, Recipe, UserError, digest, read_artifact, write_artifact
from coldstart.config.recipe import Encoder
from coldstart.data.dataset import Dataset
from coldstart.data.streaming import stream_items
from coldstart.encoders import make_mllm
from coldstart.encoders.check import check_mllm
from coldstart.rankers import IdRows, load_id_rows
from coldstart.training.checkpoint import Checkpoints
from coldstart.training.coarse_loop import CoarseTask, Diverged, train_coarse
from coldstart.training.launch import LEFT, launch, told_to_leave
from workloads.console import CONSOLE
from workloads.job import main

STAGE = "align_coarse"
_NAMED = 20
_BLOCK_BYTES = 128 * 2**20


def run(recipe: Recipe) -> Artifact:
    """Trains on the run's mature items and writes `<run_dir>/encoder`.

    A run that was interrupted goes on from its newest complete checkpoint.

    Raises:
        UserError: an earlier stage's result or the MLLM is missing, or too few items are mature.
    """
    run_dir = recipe.run_dir.absolute()
    dataset = Dataset.open(run_dir / "dataset")
    ranker = read_artifact(run_dir / "ranker", "ranker")
    made_from, here = ranker.lineage.get("dataset", ""), dataset.artifact.fingerprint
    if made_from != here:
        raise UserError(
            f"the ID table in {ranker.path} is of another dataset ({made_from[:12]}) than {dataset.artifact.path} "
            f"({here[:12]}): its rows belong to other items; run train_ranker or import_ranker on this dataset"
        )
    lineage = {"dataset": here, "ranker": ranker.fingerprint}
    mllm = _mllm(recipe, dataset)
    ids = load_id_rows(ranker.path)
    counts = check_mllm(recipe.encoder, mllm, width=ids.rows.shape[1], content=recipe.content)
    CONSOLE.print(f"      {STAGE:<13} {counts.trained:,} parameters are trained, {counts.frozen:,} are frozen")
    parameters = {"trained_parameters": counts.trained, "frozen_parameters": counts.frozen}
    # Not how often it is saved, nor by how many ranks: those go on from one another's checkpoints.
    coarse = recipe.coarse.model_dump(mode="json", exclude={"checkpoint_every", "checkpoint_async"})
    key = digest([recipe.encoder, recipe.content, coarse, recipe.seed, mllm, lineage])
    task = coarse_task(recipe, dataset, ids, mllm=mllm, key=key)

    journal = Journal(task.journal)
    if Checkpoints(task.checkpoints, key).newest() is None:
        journal.clear()
        journal.write(0, task.total_steps)
    payload = {"recipe": recipe.model_dump(mode="json"), "run_dir": str(run_dir), "mllm": mllm, "key": key}
    launch(_worker, payload, cluster=recipe.cluster, name=STAGE, storage=run_dir / "checkpoints", elastic=True)

    with write_artifact(run_dir / "encoder", "encoder", lineage, {**_about(task, journal), **parameters}) as draft:
        shutil.copytree(task.result, draft, dirs_exist_ok=True)
    shutil.rmtree(task.checkpoints.parent, ignore_errors=True)
    return read_artifact(run_dir / "encoder", "encoder")


def coarse_task(recipe: Recipe, dataset: Dataset, ids: IdRows, *, mllm: str, key: str) -> CoarseTask:
    """What the ranks are to do; the same wherever it is called.

    Raises:
        UserError: no item is mature, or fewer than a batch needs.
    """
    settings, counts = recipe.coarse, dataset.train_counts
    known = ids.trained.numpy()
    mature = np.flatnonzero((counts >= settings.min_events) & known)
    if not len(mature):
        raise UserError(
            f"no item with an ID row has coarse.min_events {settings.min_events} train events ({known.sum()} of "
            f"{dataset.num_items} items have a row; the most events any of them has is {counts[known].max(initial=0)}, "
            f"the median of all items is {int(np.median(counts[1:]))}); lower coarse.min_events"
        )
    train, heldout = split_mature(mature, settings, seed=recipe.seed)
    if settings.batch > len(train):
        raise UserError(
            f"coarse.batch {settings.batch} exceeds the {len(train)} mature items in training "
            f"({len(mature)} have coarse.min_events {settings.min_events}, coarse.holdout keeps {len(heldout)} out); "
            "lower coarse.batch or coarse.min_events"
        )
    run_dir = recipe.run_dir.absolute()
    checkpoints = run_dir / "checkpoints" / STAGE / key[:16]
    return CoarseTask(
        mllm=mllm,
        encoder=recipe.encoder,
        content=recipe.content,
        coarse=settings,
        seed=recipe.seed,
        train=np.sort(train),
        heldout=np.sort(heldout),
        groups=dataset.content_groups(recipe.content),
        events=counts,
        journal=run_dir / "journals" / f"{STAGE}.jsonl",
        checkpoints=checkpoints,
        result=checkpoints / "result",
        key=key,
    )


def block_rows(encoder: Encoder) -> int:
    """Items that one Ray Data task prepares: few enough that their pixels fit a block of the size Ray aims at."""
    # Three channels in float32, and some families show a still picture as two frames.
    pixels = 2 * 3 * 4 * encoder.picture_size**2
    return max(1, min(256, _BLOCK_BYTES // pixels))


def _worker(payload: dict[str, Any]) -> str | None:
    run_dir = Path(payload["run_dir"])
    recipe = Recipe.model_validate(payload["recipe"])
    recipe = recipe.model_copy(update={"paths": recipe.paths.model_copy(update={"runs": run_dir.parent})})
    dataset = Dataset.open(run_dir / "dataset", verify=False)
    ids = load_id_rows(run_dir / "ranker")
    task = coarse_task(recipe, dataset, ids, mllm=payload["mllm"], key=payload["key"])
    try:
        stream = partial(stream_items, run_dir / "dataset", block_rows=block_rows(task.encoder))
        finished = train_coarse(task, ids.rows, stream, told_to_leave)
    except Diverged as error:
        raise UserError(_explain(error, task, dataset)) from error
    return None if finished else LEFT


def _explain(error: Diverged, task: CoarseTask, dataset: Dataset) -> str:
    """Names the items by their own ids, and says what is left."""
    ids = dataset.items(["item_id"])["item_id"].take(error.items - 1).to_pylist()
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    found = Checkpoints(task.checkpoints, task.key).newest()
    kept = f"the same command goes on from the checkpoint of step {found['step']}" if found else "no checkpoint was due"
    return (
        f"{error.what} of step {error.step} is not a finite number, after reading item_id {', '.join(ids[:_NAMED])}"
        f"{more}; {kept}. Look at these items, or lower coarse.learning_rate {task.coarse.learning_rate:g} (which "
        "starts anew)"
    )


def _mllm(recipe: Recipe, dataset: Dataset) -> str:
    """Checkpoint directory or hub name; the tiny MLLM is made if this run does not have it yet."""
    if recipe.encoder.mllm != "tiny":
        local = Path(recipe.encoder.mllm)
        return str(local.absolute()) if local.is_dir() else recipe.encoder.mllm
    path = recipe.run_dir.absolute() / "mllm"
    lineage = {"dataset": dataset.artifact.fingerprint}
    about = {"picture_size": recipe.encoder.picture_size, "seed": recipe.seed}
    if path.is_dir():
        made = read_artifact(path, "mllm")
        if made.lineage == lineage and made.about == about:
            return str(path)
    with write_artifact(path, "mllm", lineage, about) as draft:
        make_mllm(draft, dataset.texts(), picture_size=recipe.encoder.picture_size, seed=recipe.seed)
    return str(path)


def _about(task: CoarseTask, journal: Journal) -> dict[str, Any]:
    lines = journal.read()
    measured = [line for line in lines if "mean_cosine" in line]
    best = max(measured, key=lambda line: line["mean_cosine"], default={})
    made = json.loads((task.result / "encoder.json").read_text())
    kept = (
        "recall_at_1",
        "recall_at_10",
        "chance_recall_at_10",
        "mean_rank",
        "mean_reciprocal_rank",
        "mean_cosine",
        "uniformity",
    )
    return {
        "width": made["width"],
        "hidden": made["hidden"],
        "groups": len(made["layers"]),
        "layers": made["layers"],
        "mllm": task.encoder.mllm,
        "content": task.content.model_dump(),
        "mature_items": len(task.train) + len(task.heldout),
        "heldout_items": len(task.heldout),
        "steps": task.total_steps,
        "best_step": best.get("done", task.total_steps),
        **{name: round(best[name], 5) for name in kept if name in best},
    }


if __name__ == "__main__":
    main(STAGE, run, __doc__, check=lambda recipe: check_mllm(recipe.encoder))
