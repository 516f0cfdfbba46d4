"""Train the oracle of an item holdout: a ranker that knew the held-out items, for the best that a proxy can hope for.

It is trained like the ranker, and on the events of train users on held-out items as well. Events of test users, which
are what is evaluated, stay unseen: what it knows of an item, other users have told.
"""

from coldstart.config import Artifact, Recipe, UserError, read_artifact
from coldstart.data.contract import TRAIN, UNUSED
from workloads.job import main
from workloads.train_ranker import fit

STAGE = "train_oracle"


def run(recipe: Recipe) -> Artifact:
    """Trains on the run's dataset and writes `<run_dir>/oracle`.

    Raises:
        UserError: there is no dataset, or it was not split by items.
    """
    dataset = read_artifact(recipe.run_dir / "dataset", "dataset")
    if dataset.about["split"]["kind"] != "item_holdout":
        raise UserError(
            f"the dataset was split {dataset.about['split']['kind']}: its cold items have no early events to train on; "
            "an oracle needs data.split.kind: item_holdout"
        )
    return fit(recipe, dataset, STAGE, "oracle", splits=(TRAIN, UNUSED))


if __name__ == "__main__":
    main(STAGE, run, __doc__)
