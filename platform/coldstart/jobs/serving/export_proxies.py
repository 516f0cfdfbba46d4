"""Exports coarse proxies as a table for the ID table of a ranker outside the platform."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from coldstart.config import Recipe, UserError, read_artifact
from coldstart.config.recipe import settings_of
from coldstart.data.dataset import Dataset
from coldstart.data.item_table import ItemTable
from coldstart.methods.base import ITEM_TABLE
from coldstart.methods.idproxy.config import Settings
from coldstart.methods.idproxy.scorers import COARSE
from coldstart.rankers import load_id_embeddings


def export_proxies(recipe: Recipe, out: Path) -> int:
    """Writes `item_id`, `has_row` and `proxy` of every item; returns the number of items.

    Coarse proxies have unit length; the export scales them to the mean length of the ID rows of mature items.

    Raises:
        UserError: the run is of another method than IDProxy, or its item table is missing, or from another ranker or
            dataset.
    """
    settings_of(recipe, Settings)
    items = read_artifact(recipe.run_dir / ITEM_TABLE, ITEM_TABLE)
    for kind in ("dataset", "ranker"):
        if read_artifact(recipe.run_dir / kind, kind, verify=False).fingerprint != items.lineage[kind]:
            raise UserError(f"the item table in {recipe.run_dir} is from another {kind}; run the pipeline again")
    dataset = Dataset.open(recipe.run_dir / "dataset")
    ids = load_id_embeddings(recipe.run_dir / "ranker")
    coarse = ItemTable.open(items.path).columns[COARSE].numpy()
    trained = ids.trained.numpy()
    mature = dataset.mature(trained, recipe.mature_events)
    scale = np.linalg.norm(ids.rows.numpy()[mature], axis=1).mean()
    rows = (coarse[1:] * scale).astype(np.float32)
    table = {
        "item_id": pa.array(list(dataset.item_index), pa.string()),
        "has_row": pa.array(trained[1:]),
        "proxy": pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1]),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table), out)
    return len(rows)
