"""Train oracle: trains a ranker that has ID rows of held-out items, as an upper bound for proxies.

It is trained like the ranker, with the events of train users on held-out items added. Events of test users, which the
evaluation scores, stay out, so its rows of held-out items come from other users alone.
"""

from coldstart.config import Artifact, Recipe, UserError, read_artifact
from coldstart.data.schema import EXCLUDED, TRAIN
from coldstart.jobs.runner import stage_program
from coldstart.jobs.stages.train_ranker import fit

STAGE = "train_oracle"


def run(recipe: Recipe) -> Artifact:
    """Trains on the run's dataset and writes `<run_dir>/oracle`.

    Raises:
        UserError: there is no dataset, or its split is not item_holdout.
    """
    dataset = read_artifact(recipe.run_dir / "dataset", "dataset")
    split = dataset.metadata["split"]["kind"]
    if split != "item_holdout":
        raise UserError(
            f"an oracle needs data.split.kind item_holdout, but the dataset has split {split}: "
            "its cold items have no early events to train on; set data.split.kind: item_holdout and prepare it again"
        )
    return fit(recipe, dataset, STAGE, "oracle", splits=(TRAIN, EXCLUDED))


def main() -> None:
    """Runs it as a program."""
    stage_program(STAGE, run, __doc__)
