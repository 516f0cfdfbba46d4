"""Trains a coldstart ranker, with the same task and result files as the peers' programs.

A task with `ray` runs the `train_ranker` stage, as a user does: DDP workers under Ray Train. Without `ray`, the same
model is trained in this process, so that tuning runs do not each start Ray.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from coldstart.config import MetricsLog, Recipe
from coldstart.data.batches import RankBatch, UserWindows
from coldstart.data.dataset import Dataset
from coldstart.data.schema import TEST
from coldstart.jobs.runner import ray_cluster
from coldstart.jobs.stages import train_ranker as stage
from coldstart.metrics.clicks import gauc, sigmoid
from coldstart.rankers import Ranker, load_ranker
from coldstart.training.ctr_trainer import TrainingContext, score_targets
from coldstart.training.ranker_training import train_ranker


def train(recipe: Recipe, task: dict[str, Any]) -> tuple[Ranker, MetricsLog]:
    """The trained ranker and the metrics log of its epochs."""
    if task["ray"]:
        with ray_cluster(recipe):
            stage.run(recipe)
        return load_ranker(recipe.run_dir / "ranker"), MetricsLog(recipe.run_dir / "metrics" / f"{stage.STAGE}.jsonl")
    metrics_log = MetricsLog(Path(task["out"]) / "metrics.jsonl")
    metrics_log.clear()
    dataset = Dataset.open(recipe.run_dir / "dataset", verify=False)
    context = TrainingContext(seed=recipe.seed, gauc=gauc, metrics_log=metrics_log)
    ranker, _ = train_ranker(dataset.sequences, dataset.num_items, recipe.ranker, context)
    return ranker, metrics_log


def epochs(metrics_log: MetricsLog, rows: int) -> dict[str, list[float]]:
    """Validation GAUC and training seconds per epoch; the log has mean rows per second since the first epoch."""
    lines = [line for line in metrics_log.read() if "valid_gauc" in line]
    elapsed = np.array([0.0] + [rows * line["done"] / line["rows_per_second"] for line in lines])
    return {"valid_gauc": [line["valid_gauc"] for line in lines], "epoch_seconds": np.diff(elapsed).tolist()}


def score(ranker: Ranker, recipe: Recipe) -> NDArray[np.float64]:
    """Click probabilities of the test rows, read from disk, in event order."""

    def logits(batch: RankBatch, step: int | None) -> torch.Tensor:
        scored: torch.Tensor = ranker(batch, ranker.id_slots(batch.target_idx))
        return scored

    sequences = Dataset.open(recipe.run_dir / "dataset", verify=False).sequences
    return sigmoid(score_targets(logits, UserWindows(sequences, history=recipe.ranker.max_history, splits=[TEST])))


def main() -> None:
    """Trains and scores for the task on standard input."""
    task = json.load(sys.stdin)
    torch.set_num_threads(task["threads"])
    recipe = Recipe.model_validate(task["recipe"])
    ranker, metrics_log = train(recipe, task)
    result: dict[str, Any] = epochs(metrics_log, task["train_rows"])
    began = time.perf_counter()
    scores = score(ranker, recipe)
    result["score_seconds"] = time.perf_counter() - began
    np.save(Path(task["out"]) / "scores.npy", scores)
    (Path(task["out"]) / "result.draft").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
