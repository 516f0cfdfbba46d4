"""Import ranker: what the user brings, a whole ranker or only its ID table, becomes the ranker of the run."""

from typing import Any

import torch

from coldstart.config import Artifact, Journal, Recipe, UserError, read_artifact, write_artifact
from coldstart.data.dataset import Dataset
from coldstart.rankers import digest, save_ranker
from coldstart.rankers.given_ranker import read_ranker
from coldstart.rankers.given_table import read_id_table, read_ids
from coldstart.rankers.storage import save_id_rows
from workloads.job import main

STAGE = "import_ranker"


def run(recipe: Recipe) -> Artifact:
    """Reads and checks what `bring` names and writes `<run_dir>/ranker`.

    Raises:
        UserError: there is no dataset, nothing is brought, or what is brought does not fit.
    """
    dataset = Dataset.open(recipe.run_dir / "dataset")
    bring, index = recipe.bring, dataset.item_index
    path, lineage = recipe.run_dir / "ranker", {"dataset": dataset.artifact.fingerprint}
    about: dict[str, Any] = {"width": recipe.ranker.width}
    # Curves of a ranker that was trained here before are not this one's.
    Journal(recipe.run_dir / "journals" / "train_ranker.jsonl").clear()
    if bring.id_table is not None:
        given = read_id_table(bring.id_table, index, width=recipe.ranker.width)
        about |= {"brought": "id_table", "items_with_row": int(given.trained.sum())}
        with write_artifact(path, "ranker", lineage, about) as draft:
            save_id_rows(given, draft, list(index))
    elif bring.weights is not None:
        ids = None if bring.ids is None else read_ids(bring.ids)
        ranker = read_ranker(recipe.ranker, bring.weights, index, dataset.sequences.features.schema, ids=ids)
        # A row without train events would have learnt from the very clicks that evaluation is about.
        ranker.trained &= torch.from_numpy(dataset.train_counts > 0)
        about |= {"brought": recipe.ranker.kind, "items_with_row": int(ranker.trained.sum())}
        about |= {"history": ranker.history, "digest": digest(ranker)}
        with write_artifact(path, "ranker", lineage, about) as draft:
            save_ranker(ranker, draft, list(index), dataset.item_features)
    else:
        raise UserError("the recipe brings no ranker; set bring.weights or bring.id_table, or run train_ranker")
    return read_artifact(path, "ranker")


if __name__ == "__main__":
    main(STAGE, run, __doc__)
