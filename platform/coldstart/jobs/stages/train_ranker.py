"""Train ranker: trains the CTR model whose ID space is the target of the alignment, on Ray Train with DDP."""

from coldstart.config import Artifact, Recipe, UserError, read_artifact, write_artifact
from coldstart.data.dataset import Dataset
from coldstart.data.schema import TRAIN
from coldstart.jobs.runner import stage_program
from coldstart.rankers import save_ranker
from coldstart.rankers.storage import weights_sha256
from coldstart.training.distributed import rank
from coldstart.training.ranker_training import train_ranker
from coldstart.training.stage import TrainingStage

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
    inputs = {"dataset": dataset.fingerprint}
    options = {"kind": kind, "splits": splits}
    TrainingStage.of(recipe, stage, [recipe.ranker], inputs, **options).run(_worker, epochs=recipe.ranker.epochs)
    return read_artifact(recipe.run_dir / kind, kind)


def _worker(stage: TrainingStage) -> None:
    recipe, kind, splits = stage.recipe, stage.options["kind"], stage.options["splits"]
    dataset = Dataset.open(stage.run_dir / "dataset", verify=False)
    ranker, progress = train_ranker(
        dataset.sequences if splits == (TRAIN,) else dataset.held_out,
        dataset.num_items,
        recipe.ranker,
        stage.click_training,
        splits=splits,
    )
    if rank() == 0:
        metadata = {
            "width": recipe.ranker.embedding_dim,
            "max_history": recipe.ranker.max_history,
            **progress.summary,
            "weights_sha256": weights_sha256(ranker),
        }
        with write_artifact(stage.run_dir / kind, kind, stage.inputs, metadata) as draft:
            save_ranker(ranker, draft, list(dataset.item_index), dataset.item_features)


def main() -> None:
    """Runs it as a program."""
    stage_program(STAGE, run, __doc__)
