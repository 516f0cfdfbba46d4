"""Import ranker: an existing ranker, or only its ID table, becomes the ranker of the run."""

from typing import Any

import torch

from coldstart.config import Artifact, MetricsLog, Recipe, UserError, read_artifact, write_artifact
from coldstart.data.dataset import Dataset
from coldstart.jobs.runner import stage_program
from coldstart.rankers import save_ranker, weights_sha256
from coldstart.rankers.imported_ranker import load_imported_ranker
from coldstart.rankers.imported_table import load_imported_table, read_item_ids
from coldstart.rankers.storage import save_id_embeddings

STAGE = "import_ranker"


def run(recipe: Recipe) -> Artifact:
    """Loads and checks the files of `ranker.pretrained` and writes `<run_dir>/ranker`.

    Raises:
        UserError: there is no dataset, no file is set, or a file does not meet the interface.
    """
    dataset = Dataset.open(recipe.run_dir / "dataset")
    pretrained, index = recipe.ranker.pretrained, dataset.item_index
    path, lineage = recipe.run_dir / "ranker", {"dataset": dataset.artifact.fingerprint}
    metadata: dict[str, Any] = {"width": recipe.ranker.embedding_dim}
    # Metrics of a ranker that was trained in this run before do not belong to the imported one.
    MetricsLog(recipe.run_dir / "metrics" / "train_ranker.jsonl").clear()
    if pretrained.id_table is not None:
        table = load_imported_table(pretrained.id_table, index, embedding_dim=recipe.ranker.embedding_dim)
        metadata |= {"imported": "id_table", "items_with_row": int(table.trained.sum())}
        with write_artifact(path, "ranker", lineage, metadata) as draft:
            save_id_embeddings(table, draft, list(index))
    elif pretrained.weights is not None:
        item_ids = None if pretrained.item_ids is None else read_item_ids(pretrained.item_ids)
        ranker = load_imported_ranker(
            recipe.ranker, pretrained.weights, index, dataset.sequences.features.schema, item_ids=item_ids
        )
        # A row without train events can only have learned from the clicks that the evaluation scores.
        ranker.trained &= torch.from_numpy(~dataset.cold)
        metadata |= {"imported": recipe.ranker.kind, "items_with_row": int(ranker.trained.sum())}
        metadata |= {"max_history": ranker.max_history, "weights_sha256": weights_sha256(ranker)}
        with write_artifact(path, "ranker", lineage, metadata) as draft:
            save_ranker(ranker, draft, list(index), dataset.item_features)
    else:
        raise UserError(
            "the recipe has no ranker to import; set ranker.pretrained.weights or ranker.pretrained.id_table, or run "
            "train_ranker"
        )
    return read_artifact(path, "ranker")


def main() -> None:
    """Runs it as a program."""
    stage_program(STAGE, run, __doc__)
