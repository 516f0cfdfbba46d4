"""Train the ranker: the CTR model whose ID space everything else is aligned with, on Ray Train with DDP."""

import shutil
from pathlib import Path
from typing import Any

from coldstart.config import Artifact, Journal, Recipe, UserError, digest, read_artifact, write_artifact
from coldstart.data.contract import TRAIN
from coldstart.data.dataset import Dataset
from coldstart.evaluation.metrics import gauc
from coldstart.rankers import save_ranker
from coldstart.rankers.storage import digest as digest_ranker
from coldstart.training.launch import launch
from coldstart.training.ranker_loop import train_ranker
from coldstart.training.ranks import rank
from workloads.job import main

STAGE = "train_ranker"


def run(recipe: Recipe) -> Artifact:
    """Trains on the run's dataset and writes `<run_dir>/ranker`.

    A run that was interrupted goes on after its last finished epoch.

    Raises:
        UserError: there is no dataset, or it has no train events.
    """
    dataset = read_artifact(recipe.run_dir / "dataset", "dataset")
    if not dataset.about["splits"]["train"]["events"]:
        raise UserError(
            "the dataset has no train events; lower data.split.valid and data.split.test and prepare it again"
        )
    return fit(recipe, dataset, STAGE, "ranker", splits=(TRAIN,))


def fit(recipe: Recipe, dataset: Artifact, stage: str, kind: str, *, splits: tuple[int, ...]) -> Artifact:
    """Trains a ranker on the events of `splits`, in the name of a stage, and writes `<run_dir>/<kind>`.

    Events beyond the train split are read from the dataset's withheld sequences.

    Raises:
        UserError: the dataset withholds no events but they are asked for.
    """
    run_dir = recipe.run_dir.absolute()
    settings = digest([recipe.ranker, recipe.seed, dataset.fingerprint])
    checkpoints = run_dir / "checkpoints" / stage / settings[:16]
    journal = Journal(run_dir / "journals" / f"{stage}.jsonl")
    if not checkpoints.exists():
        journal.clear()
        journal.write(0, recipe.ranker.epochs)
    payload = {
        "recipe": recipe.model_dump(mode="json"),
        "run_dir": str(run_dir),
        "dataset": dataset.fingerprint,
        "checkpoints": str(checkpoints),
        "stage": stage,
        "kind": kind,
        "splits": splits,
    }
    launch(_worker, payload, cluster=recipe.cluster, name=stage, storage=run_dir / "checkpoints")
    shutil.rmtree(checkpoints.parent, ignore_errors=True)
    return read_artifact(run_dir / kind, kind)


def _worker(payload: dict[str, Any]) -> None:
    recipe = Recipe.model_validate(payload["recipe"])
    run_dir, kind, splits = Path(payload["run_dir"]), payload["kind"], tuple(payload["splits"])
    dataset = Dataset.open(run_dir / "dataset", verify=False)
    ranker, progress = train_ranker(
        dataset.sequences if splits == (TRAIN,) else dataset.withheld,
        dataset.num_items,
        recipe.ranker,
        seed=recipe.seed,
        gauc=gauc,
        splits=splits,
        journal=Journal(run_dir / "journals" / f"{payload['stage']}.jsonl"),
        checkpoints=Path(payload["checkpoints"]),
    )
    if rank() == 0:
        about = {
            "width": recipe.ranker.width,
            "history": recipe.ranker.history,
            "valid_gauc": round(progress.best, 5),
            "epochs": progress.epoch,
            "best_epoch": progress.best_epoch + 1,
            "rows_per_second": round(progress.rows_per_second),
            "digest": digest_ranker(ranker),
        }
        with write_artifact(run_dir / kind, kind, {"dataset": payload["dataset"]}, about) as draft:
            save_ranker(ranker, draft, list(dataset.item_index), dataset.item_features)


if __name__ == "__main__":
    main(STAGE, run, __doc__)
