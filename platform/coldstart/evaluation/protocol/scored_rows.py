"""Scored rows: the evaluated events with the logits of every variant, stored as Parquet parts.

Legend: `n` rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from coldstart.data.batches import users_of
from coldstart.data.dataset import Dataset

FACTS = pa.schema(
    [
        pa.field("user_idx", pa.int64(), nullable=False),
        pa.field("item_idx", pa.int64(), nullable=False),
        pa.field("event", pa.int64(), nullable=False),
        pa.field("timestamp", pa.int64(), nullable=False),
        pa.field("label", pa.int8(), nullable=False),
        pa.field("train_events", pa.int64(), nullable=False),
        pa.field("train_clicks", pa.int64(), nullable=False),
        pa.field("age_s", pa.float64()),
    ]
)
LOGIT, ITEM_EFFECT = "logit_", "item_effect_"
"""Prefixes of the columns with a variant's scores."""


@dataclass(frozen=True)
class ScoredRows:
    """Evaluated rows, `[n]` each.

    Attributes:
        user_idx: User indices.
        item_idx: Item indices.
        event: Position in the dataset's flat event order, the key of a row.
        timestamp: Unix seconds.
        label: 0 or 1.
        train_events: Train events of the row's item.
        train_clicks: Train clicks of the row's item.
        age_s: Seconds from the item's publication to the event; NaN if unknown.
        logits: Variant -> logits.
        item_effect: Variant -> logits that are the same for every user; NaN if not computed.
    """

    user_idx: NDArray[np.integer]
    item_idx: NDArray[np.integer]
    event: NDArray[np.integer]
    timestamp: NDArray[np.integer]
    label: NDArray[np.integer]
    train_events: NDArray[np.integer]
    train_clicks: NDArray[np.integer]
    age_s: NDArray[np.floating]
    logits: Mapping[str, NDArray[np.floating]] = field(default_factory=dict)
    item_effect: Mapping[str, NDArray[np.floating]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.event)

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> Self:
        """Some of the rows, by position or mask."""
        return replace(
            self,
            **{name: getattr(self, name)[rows] for name in FACTS.names},
            logits={name: values[rows] for name, values in self.logits.items()},
            item_effect={name: values[rows] for name, values in self.item_effect.items()},
        )

    def to_table(self) -> pa.Table:
        """FACTS and a float column per score; NaN becomes null."""
        columns = {
            name: pa.array(getattr(self, name), FACTS.field(name).type, from_pandas=True) for name in FACTS.names
        }
        for prefix, scores in ((LOGIT, self.logits), (ITEM_EFFECT, self.item_effect)):
            columns |= {prefix + name: pa.array(values, from_pandas=True) for name, values in scores.items()}
        return pa.table(columns)

    @classmethod
    def from_table(cls, table: pa.Table) -> Self:
        """The rows of a table from `to_table`."""

        def column(name: str) -> NDArray[Any]:
            return np.asarray(table[name].to_numpy())

        def scores(prefix: str) -> dict[str, NDArray[Any]]:
            return {name.removeprefix(prefix): column(name) for name in table.column_names if name.startswith(prefix)}

        facts: dict[str, Any] = {name: column(name) for name in FACTS.names}
        return cls(**facts, logits=scores(LOGIT), item_effect=scores(ITEM_EFFECT))

    @classmethod
    def read(cls, directory: Path, *, max_rows: int | None = None) -> Self:
        """Reads a directory of parts into one process, in the order of events.

        Args:
            directory: The parts.
            max_rows: Approximate limit; reads every n-th user if there are more rows. None for all rows.
        """
        files = sorted(directory.glob("part-*.parquet"))
        rows = sum(pq.read_metadata(file).num_rows for file in files)
        step = 1 if max_rows is None else -(-rows // max_rows)
        tables = (pq.read_table(file) for file in files)
        kept = [table.filter(pa.array(np.asarray(table["user_idx"]) % step == 0)) for table in tables]
        return cls.from_table(pa.concat_tables(kept).sort_by("event"))


class EventFacts:
    """Looks up the facts of evaluated events.

    Args:
        dataset: The dataset of the events.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    @cached_property
    def _published(self) -> NDArray[np.float64]:
        """[N + 1] publication time in Unix seconds: from the catalog, else the item's first event of any split."""
        sequences = self._dataset.held_out if self._dataset.has_held_out_events else self._dataset.sequences
        first = np.full(self._dataset.num_items + 1, np.inf)
        np.minimum.at(first, sequences.item_idx, sequences.timestamp)
        created = np.asarray(self._dataset.items(["created_at"])["created_at"].to_numpy(), np.float64)
        first[1:] = np.where(np.isnan(created), first[1:], created)
        return first

    @cached_property
    def _train_clicks(self) -> NDArray[np.int64]:
        clicks = self._dataset.items(["num_train_clicks"])["num_train_clicks"]
        return np.concatenate([np.zeros(1, np.int64), np.asarray(clicks, np.int64)])

    def rows(
        self,
        event: NDArray[np.int64],
        logits: Mapping[str, NDArray[np.floating]],
        item_effect: Mapping[str, NDArray[np.floating]],
    ) -> ScoredRows:
        """Scored rows of flat event positions [n]."""
        sequences = self._dataset.sequences
        item = sequences.item_idx[event].astype(np.int64)
        when = sequences.timestamp[event]
        return ScoredRows(
            user_idx=users_of(sequences, event),
            item_idx=item,
            event=event,
            timestamp=when,
            label=sequences.label[event],
            train_events=self._dataset.train_counts[item].astype(np.int64),
            train_clicks=self._train_clicks[item],
            age_s=when - self._published[item],
            logits=logits,
            item_effect=item_effect,
        )
