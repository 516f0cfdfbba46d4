"""Train ranker: trains the CTR model whose ID space is the target of the alignment, on Ray Train with DDP."""

import shutil
from pathlib import Path
from typing import Any

from coldstart.config import Artifact, MetricsLog, Recipe, UserError, digest, read_artifact, write_artifact
from coldstart.data.dataset import Dataset
from coldstart.data.schema import TRAIN
from coldstart.jobs.runner import stage_program
from coldstart.metrics.clicks import gauc
from coldstart.rankers import save_ranker
from coldstart.rankers.storage import weights_sha256
from coldstart.training.ctr_trainer import TrainingContext
from coldstart.training.distributed import rank
from coldstart.training.launch import launch
from coldstart.training.ranker_training import train_ranker

STAGE = "train_ranker"


def run(recipe: Recipe) -> Artifact:
    """Trains on the run's dataset and writes `<run_dir>/ranker`.

    An interrupted run resumes after its last finished epoch.

    Raises:
        UserError: there is no dataset, or it has no train events.
    """
    dataset = read_artifact(recipe.run_dir / "dataset", "dataset")
    if not dataset.metadata["splits"]["train"]["events"]:
        raise UserError(
            "the dataset has no train events; lower data.split.valid and data.split.test and prepare it again"
        )
    return fit(recipe, dataset, STAGE, "ranker", splits=(TRAIN,))


def fit(recipe: Recipe, dataset: Artifact, stage: str, kind: str, *, splits: tuple[int, ...]) -> Artifact:
    """Trains a ranker on the events of `splits` for a stage and writes `<run_dir>/<kind>`.

    Events outside the train split are read from the dataset's held-out sequences.

    Raises:
        UserError: such events are requested, but the dataset has none.
    """
    run_dir = recipe.run_dir.absolute()
    settings = digest([recipe.ranker, recipe.seed, dataset.fingerprint])
    checkpoints = run_dir / "checkpoints" / stage / settings[:16]
    metrics_log = MetricsLog(run_dir / "metrics" / f"{stage}.jsonl")
    if not checkpoints.exists():
        metrics_log.clear()
        metrics_log.write(0, recipe.ranker.epochs)
    payload = {
        "recipe": recipe.model_dump(mode="json"),
        "run_dir": str(run_dir),
        "dataset": dataset.fingerprint,
        "checkpoints": str(checkpoints),
        "stage": stage,
        "kind": kind,
        "splits": splits,
    }
    launch(
        _worker,
        payload,
        cluster=recipe.cluster,
        name=stage,
        storage=run_dir / "checkpoints",
        inputs={"dataset": dataset.fingerprint},
    )
    shutil.rmtree(checkpoints.parent, ignore_errors=True)
    return read_artifact(run_dir / kind, kind)


def _worker(payload: dict[str, Any]) -> None:
    recipe = Recipe.model_validate(payload["recipe"])
    run_dir, kind, splits = Path(payload["run_dir"]), payload["kind"], tuple(payload["splits"])
    dataset = Dataset.open(run_dir / "dataset", verify=False)
    ranker, progress = train_ranker(
        dataset.sequences if splits == (TRAIN,) else dataset.held_out,
        dataset.num_items,
        recipe.ranker,
        TrainingContext(
            seed=recipe.seed,
            gauc=gauc,
            metrics_log=MetricsLog(run_dir / "metrics" / f"{payload['stage']}.jsonl"),
            checkpoints=Path(payload["checkpoints"]),
        ),
        splits=splits,
    )
    if rank() == 0:
        metadata = {
            "width": recipe.ranker.embedding_dim,
            "max_history": recipe.ranker.max_history,
            **progress.summary,
            "weights_sha256": weights_sha256(ranker),
        }
        with write_artifact(run_dir / kind, kind, {"dataset": payload["dataset"]}, metadata) as draft:
            save_ranker(ranker, draft, list(dataset.item_index), dataset.item_features)


def main() -> None:
    """Runs it as a program."""
    stage_program(STAGE, run, __doc__)
