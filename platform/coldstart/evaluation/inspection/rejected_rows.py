"""Rows that prepare rejected or merged: how many for which reason, and examples."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow.parquet as pq

from coldstart.data.accounting import MERGED
from coldstart.data.cleaning import CONFLICTING_ITEM, CONFLICTING_USER
from coldstart.data.dataset import Dataset, part_path

CONFLICTS = (CONFLICTING_ITEM, CONFLICTING_USER)
"""Reasons of rows whose id stands for something else in an earlier row."""
_EXAMPLES = 3
_BATCH_ROWS = 65_536


@dataclass(frozen=True)
class RejectedRows:
    """Rows of a table with one reason.

    Attributes:
        table: items, events or users.
        reason: The reason.
        rows: Their number.
        merged: Whether another row of the same id or event replaces them.
        examples: Ids of the first ones.
    """

    table: str
    reason: str
    rows: int
    merged: bool
    examples: list[str] = field(default_factory=list)


def collect_rejected(dataset: Dataset) -> list[RejectedRows]:
    """All reasons, by table and then the most frequent first; examples for each."""
    counts: Mapping[str, Mapping[str, int]] = dataset.artifact.metadata["quarantined"]
    examples = _examples(dataset) if any(counts.values()) else {}
    return [
        RejectedRows(table, reason, rows, reason in MERGED, examples.get((table, reason), []))
        for table, reasons in counts.items()
        for reason, rows in reasons.items()
    ]


def _examples(dataset: Dataset) -> Mapping[Any, list[str]]:
    found: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    with pq.ParquetFile(part_path(dataset.artifact.path / "quarantine", 0)) as file:
        for batch in file.iter_batches(_BATCH_ROWS, columns=["table", "key", "reason"]):
            for table, key, reason in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                known = found[table, reason]
                if key is not None and len(known) < _EXAMPLES:
                    known.append(key)
    return found
