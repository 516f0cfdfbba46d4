"""Scores rows of cold items again with image or text alone, by the same scorer."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coldstart.data.batches import UserWindows
from coldstart.data.dataset import Dataset
from coldstart.data.item_table import ItemTable
from coldstart.data.schema import TEST, TRAIN
from coldstart.encoders.item_embeddings import MODALITIES, read_single_modality
from coldstart.evaluation.protocol.scored_rows import ScoredRows
from coldstart.evaluation.protocol.scoring import Logits, score_rows
from coldstart.jobs.analysis.scoring import WINDOWS_PER_PASS
from coldstart.rankers.scorer import Scorer

MAX_ROWS = 20_000
Items = NDArray[np.int64]


@dataclass(frozen=True)
class ScoredItems:
    """A scorer with its items.

    Attributes:
        scorer: In eval mode.
        items: The columns that it reads.
        adapt: Makes those columns from the encoder's; its arguments are the modality, item indices [n] and a table [n].
    """

    scorer: Scorer
    items: ItemTable
    adapt: Callable[[str, Items, ItemTable], ItemTable]


def score_single_modalities(
    scored: ScoredItems, rows: ScoredRows, dataset: Dataset, encoded: Path, *, history: int
) -> tuple[ScoredRows, Logits] | None:
    """Scores rows with each modality alone.

    Args:
        scored: How rows are scored.
        rows: In the order of events.
        dataset: Of the rows.
        encoded: Directory of the item table, which holds the sample of items that were encoded from one modality.
        history: Maximum history of a target.

    Returns:
        The rows of these items, at most `MAX_ROWS` of every n-th user, and modality -> logits; None if there are none.
    """
    tables = {}
    for name in MODALITIES:
        single = read_single_modality(encoded, name)
        if single is None:
            return None
        items, columns = single
        tables[name] = _with_rows(scored.items, items, scored.adapt(name, items, columns))
    rows = rows.take(np.isin(rows.item_idx, items))
    rows = rows.take(rows.user_idx % max(-(-len(rows) // MAX_ROWS), 1) == 0)
    if not len(rows):
        return None
    sequences = dataset.sequences
    # Only these rows shall be targets, so only they are marked as TEST.
    split = np.full(len(sequences.split), TRAIN, sequences.split.dtype)
    split[rows.event] = TEST
    windows = UserWindows(replace(sequences, split=split), history=history, splits=[TEST])
    scores = {name: partial(scored.scorer, items=table) for name, table in tables.items()}
    event, logits = score_rows(windows.iter_eval(windows_per_step=WINDOWS_PER_PASS), scores)
    assert np.array_equal(event, rows.event), "rows are in the order of events"
    return rows, logits


def _with_rows(table: ItemTable, items: Items, rows: ItemTable) -> ItemTable:
    """A copy of a table with other rows [n] for some items [n]; histories keep the other items' own rows."""
    columns = {name: values.clone() for name, values in table.columns.items()}
    for name, values in columns.items():
        values[items] = rows.columns[name]
    return ItemTable(columns)
