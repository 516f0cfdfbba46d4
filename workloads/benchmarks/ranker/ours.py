"""One of our rankers, as a program with the task and the results of a peer's.

A task with `ray` trains by the `train_ranker` stage, as a user does: DDP workers under Ray Train. Without, the same
model is trained in this process, which spares each try of a grid the start of Ray.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from coldstart.config import Journal, Recipe
from coldstart.data.batches import RankBatch, UserWindows
from coldstart.data.contract import TEST
from coldstart.data.dataset import Dataset
from coldstart.evaluation.metrics import gauc, sigmoid
from coldstart.rankers import Ranker, load_ranker
from coldstart.training.click_loop import score_rows
from coldstart.training.ranker_loop import train_ranker
from workloads import train_ranker as stage
from workloads.job import ray_cluster


def train(recipe: Recipe, task: dict[str, Any]) -> tuple[Ranker, Journal]:
    """The trained ranker and the journal of its epochs."""
    if task["ray"]:
        with ray_cluster(recipe):
            stage.run(recipe)
        return load_ranker(recipe.run_dir / "ranker"), Journal(recipe.run_dir / "journals" / f"{stage.STAGE}.jsonl")
    journal = Journal(Path(task["out"]) / "journal.jsonl")
    journal.clear()
    dataset = Dataset.open(recipe.run_dir / "dataset", verify=False)
    ranker, _ = train_ranker(
        dataset.sequences, dataset.num_items, recipe.ranker, seed=recipe.seed, gauc=gauc, journal=journal
    )
    return ranker, journal


def epochs(journal: Journal, rows: int) -> dict[str, list[float]]:
    """Validation figure and training seconds by epoch; the journal has rows per second since the first."""
    lines = [line for line in journal.read() if "valid_gauc" in line]
    until = np.array([0.0] + [rows * line["done"] / line["rows_per_second"] for line in lines])
    return {"valid_gauc": [line["valid_gauc"] for line in lines], "epoch_seconds": np.diff(until).tolist()}


def score(ranker: Ranker, recipe: Recipe) -> NDArray[np.float64]:
    """Click probabilities of the test rows, read from disk, in event order."""

    def logits(batch: RankBatch, step: int | None) -> torch.Tensor:
        scored: torch.Tensor = ranker(batch, ranker.id_slots(batch.target_idx))
        return scored

    sequences = Dataset.open(recipe.run_dir / "dataset", verify=False).sequences
    return sigmoid(score_rows(logits, UserWindows(sequences, history=recipe.ranker.history, splits=[TEST])))


def main() -> None:
    """Trains and scores as the task on standard input says."""
    task = json.load(sys.stdin)
    torch.set_num_threads(task["threads"])
    recipe = Recipe.model_validate(task["recipe"])
    ranker, journal = train(recipe, task)
    result: dict[str, Any] = epochs(journal, task["train_rows"])
    began = time.perf_counter()
    scores = score(ranker, recipe)
    result["score_seconds"] = time.perf_counter() - began
    np.save(Path(task["out"]) / "scores.npy", scores)
    (Path(task["out"]) / "result.draft").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
