"""The item rows of one space on disk: a versioned Lance dataset, and a copy of its newest version that replicas map.

The first version holds the catalog; each compaction merges in what was published since. Reading Lance needs file access
and decoding, so the ranking path maps an Arrow file of the newest version instead; all replicas of a machine share its
pages. That file is only a copy and is written again if it is missing. Both hold the bytes of structured rows and, in
the metadata of their schema, the columns. Legend: `N` items of the release's catalog, `R` rows.
"""

import fcntl
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from coldstart.data.item_table import ColumnSpecs, Rows, row_dtype
from coldstart.serving.store.lance_import import import_lance
from coldstart.serving.store.publication_log import Change
from coldstart.serving.store.row_layout import check_layout, dump_columns

_KEEP_VERSIONS_FOR = timedelta(days=1)


@dataclass(frozen=True)
class MappedRows:
    """One version of the dataset as a replica maps it.

    Attributes:
        rows: [R] mapped from disk; row `i` is item `i` of the catalog, row 0 is the unknown item.
        version: Version of the Lance dataset; 0 if there is none yet.
        num_catalog_rows: N + 1; `extra_rows` gives the ids of the rows after them.
        extra_rows: Item id -> row, for items outside the catalog.
        features: Item id -> codes, then numbers `[C + N]`, for items that were published with features.
        withdrawn: Deleted items.
        last_revision: Last revision that the version contains.
    """

    rows: Rows
    version: int = 0
    num_catalog_rows: int = 0
    extra_rows: dict[str, int] = field(default_factory=dict)
    features: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    withdrawn: frozenset[str] = frozenset()
    last_revision: int = 0


class ItemDataset:
    """The Lance dataset of one space and its mapped copy.

    Args:
        directory: Directory of this space, on local disk.
        columns: Columns of a row.
    """

    def __init__(self, directory: Path, columns: ColumnSpecs) -> None:
        self.directory, self.columns = directory, columns
        self._dataset = directory / "items.lance"
        self._dtype = row_dtype(columns)

    def write(self, item_ids: Sequence[str], chunks: Iterable[Rows]) -> None:
        """Writes the catalog as the first version, unless there is one.

        Args:
            item_ids: [N] in order of item index, from 1.
            chunks: Rows in order of item index, from 0, the unknown item.
        """
        if self._copies():
            return
        with self._exclusive_lock():
            if not (self._dataset / "_versions").is_dir():
                rows = iter(_rows(["", *item_ids], chunks))
                first = next(rows)
                schema = first.schema.with_metadata({"columns": dump_columns(self.columns)})
                reader = pa.RecordBatchReader.from_batches(schema, _batches(first, rows))
                import_lance().write_dataset(reader, self._dataset)
            self._copy()

    def compact(self, changes: Sequence[Change]) -> None:
        """Merges changes into a new version. If it is killed, the previous version stays valid."""
        if not changes:
            return
        with self._exclusive_lock():
            dataset = import_lance().dataset(self._dataset)
            newer = [change for change in changes if change.revision > self.table().last_revision]
            if newer:
                merge = dataset.merge_insert("item_id").when_matched_update_all().when_not_matched_insert_all()
                known = dataset.to_table(columns=["item_id", "row", "in_catalog"])
                merge.execute(_changed_rows(newer, known, self._dtype))
                import_lance().dataset(self._dataset).cleanup_old_versions(_KEEP_VERSIONS_FOR)
            self._copy()

    def table(self) -> MappedRows:
        """The newest version that has a mapped copy.

        Raises:
            UserError: its rows have other columns.
        """
        copies = self._copies()
        if not copies:
            return MappedRows(np.zeros(1, self._dtype))
        with pa.memory_map(str(copies[-1])) as source:
            table = pa.ipc.open_file(source).read_all()
        check_layout(table.schema.metadata[b"columns"].decode(), self.columns, f"the store {self.directory}")
        num_catalog_rows = int(table.schema.metadata[b"num_catalog_rows"])
        ids = table["item_id"]
        changed_rows = np.flatnonzero(table["revision"].to_numpy())
        changed = table.select(["item_id", "features", "withdrawn"]).take(changed_rows).to_pylist()
        return MappedRows(
            rows=table["bytes"].chunk(0).flatten().to_numpy().view(self._dtype),
            version=_version(copies[-1]),
            num_catalog_rows=num_catalog_rows,
            extra_rows={
                item_id: row for row, item_id in enumerate(ids[num_catalog_rows:].to_pylist(), start=num_catalog_rows)
            },
            features={row["item_id"]: np.array(row["features"]) for row in changed if row["features"] is not None},
            withdrawn=frozenset(row["item_id"] for row in changed if row["withdrawn"]),
            last_revision=int(table["revision"].to_numpy().max(initial=0)),
        )

    def _copies(self) -> list[Path]:
        return sorted(self.directory.glob("table-*.arrow"), key=_version)

    def _copy(self) -> None:
        """Writes the newest version in row order and removes older copies; a process that maps one keeps it."""
        dataset = import_lance().dataset(self._dataset)
        path = self.directory / f"table-{dataset.version}.arrow"
        if path.exists():
            return
        table = dataset.to_table().sort_by("row").combine_chunks()
        num_catalog_rows = int(np.asarray(table["in_catalog"]).sum())
        metadata = {**dataset.schema.metadata, "num_catalog_rows": str(num_catalog_rows)}
        table = table.replace_schema_metadata(metadata).drop_columns(["row", "in_catalog"])
        partial = path.with_suffix(f".partial-{os.getpid()}")
        with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=max(len(table), 1))
        older = self._copies()
        partial.replace(path)
        for copy in older:
            copy.unlink(missing_ok=True)

    @contextmanager
    def _exclusive_lock(self) -> Iterator[None]:
        """Allows one writer at a time, over all processes; the lock is released when its process dies."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "writing.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _version(copy: Path) -> int:
    return int(copy.stem.removeprefix("table-"))


def _rows(item_ids: Sequence[str], chunks: Iterable[Rows]) -> Iterator[pa.RecordBatch]:
    first = 0
    for chunk in chunks:
        rows = np.arange(first, first + len(chunk))
        first += len(chunk)
        yield _batch(
            rows,
            item_ids[rows[0] : rows[-1] + 1],
            chunk,
            features=[None] * len(rows),
            revision=0 * rows,
            withdrawn=np.zeros(len(rows), bool),
            in_catalog=np.ones(len(rows), bool),
        )


def _batches(first: pa.RecordBatch, rest: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield first
    yield from rest


def _changed_rows(changes: Sequence[Change], known: pa.Table, dtype: np.dtype[np.void]) -> pa.Table:
    """Rows of changes: known items keep their row number, new items are appended."""
    latest = {change.item_id: change.row for change in changes}
    revision = {change.item_id: change.revision for change in changes}
    position = pc.index_in(pa.array(latest, pa.string()), value_set=known["item_id"].combine_chunks())
    new = position.is_null().to_numpy(zero_copy_only=False)
    rows_of = pc.fill_null(known["row"].combine_chunks().take(position), 0).to_numpy().copy()
    rows_of[new] = len(known) + np.arange(new.sum())
    values = np.zeros(len(latest), dtype)
    for at, item in enumerate(latest.values()):
        if item is not None:
            values[at] = item.values
    return pa.Table.from_batches(
        [
            _batch(
                rows_of,
                list(latest),
                values,
                features=[None if item is None else item.features for item in latest.values()],
                revision=[revision[item_id] for item_id in latest],
                withdrawn=[item is None for item in latest.values()],
                in_catalog=pc.fill_null(known["in_catalog"].combine_chunks().take(position), False),
            )
        ]
    )


def _batch(row: Any, item_id: Sequence[str], values: Rows, **others: Any) -> pa.RecordBatch:
    flat = pa.array(np.ascontiguousarray(values).view(np.uint8))
    return pa.record_batch(
        {
            "row": pa.array(row, pa.int64()),
            "item_id": pa.array(item_id, pa.string()),
            "bytes": pa.FixedSizeListArray.from_arrays(flat, values.dtype.itemsize),
            "features": pa.array(others["features"], pa.list_(pa.float64())),
            "revision": pa.array(others["revision"], pa.int64()),
            "withdrawn": pa.array(others["withdrawn"], pa.bool_()),
            "in_catalog": pa.array(others["in_catalog"], pa.bool_()),
        }
    )
