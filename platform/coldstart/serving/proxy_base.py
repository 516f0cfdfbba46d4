"""The proxies of one space at rest: a versioned Lance dataset, and the copy of a version that replicas map.

The first version holds the catalogue; each fold merges in what was published since. Lance is read with file access
and decoding, so the ranking path does not: it maps an Arrow file of the newest version, whose pages all replicas of a
machine share. That file is only a copy and is made again if it is missing. Legend: `N` items of the release's
catalogue, `R` rows, `d` ID width.
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

from coldstart.serving.lance_files import lance
from coldstart.serving.publications import Change, Vectors

_KEPT = timedelta(days=1)


@dataclass(frozen=True)
class Table:
    """A version of the base as replicas hold it.

    Attributes:
        version: Of the Lance dataset; 0 if there is none yet.
        vectors: [R, d] mapped from disk; row `i` is item `i` of the catalogue, row 0 stands for nothing.
        listed: N + 1, the rows of the catalogue; those behind it are named by `extra`.
        extra: Item id -> row, of items outside the catalogue.
        features: Codes, then numbers `[C + N]` of items that were published with features.
        withdrawn: Items that were deleted.
        through: Last revision that is in it.
    """

    version: int = 0
    vectors: Vectors = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    listed: int = 0
    extra: dict[str, int] = field(default_factory=dict)
    features: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    withdrawn: frozenset[str] = frozenset()
    through: int = 0


class ProxyBase:
    """The Lance dataset of one space and its mapped copy.

    Args:
        directory: Of this space, on local disk.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._dataset = directory / "proxies.lance"

    def write(self, item_ids: Sequence[str], chunks: Iterable[Vectors]) -> None:
        """Writes the catalogue as the first version, unless there is one.

        Args:
            item_ids: [N] in order of item index, from 1.
            chunks: Proxies `[*, d]` by item index from 0; row 0 stands for nothing.
        """
        if self._copies():
            return
        with self._alone():
            if not (self._dataset / "_versions").is_dir():
                rows = iter(_rows(["", *item_ids], chunks))
                first = next(rows)
                reader = pa.RecordBatchReader.from_batches(first.schema, _batches(first, rows))
                lance().write_dataset(reader, self._dataset)
            self._copy()

    def fold(self, changes: Sequence[Change]) -> None:
        """Merges changes into a new version; killed in the middle, it leaves the version that was there."""
        if not changes:
            return
        with self._alone():
            dataset = lance().dataset(self._dataset)
            news = [change for change in changes if change.revision > self.table().through]
            if news:
                width = dataset.schema.field("vector").type.list_size
                merge = dataset.merge_insert("item_id").when_matched_update_all().when_not_matched_insert_all()
                merge.execute(_news(news, dataset.to_table(columns=["item_id", "row", "listed"]), width))
                lance().dataset(self._dataset).cleanup_old_versions(_KEPT)
            self._copy()

    def table(self) -> Table:
        """The newest version that was copied for mapping."""
        copies = self._copies()
        if not copies:
            return Table()
        with pa.memory_map(str(copies[-1])) as source:
            table = pa.ipc.open_file(source).read_all()
        column = table["vector"].chunk(0)
        listed = int(table.schema.metadata[b"listed"])
        ids = table["item_id"]
        touched = np.flatnonzero(table["revision"].to_numpy())
        changed = table.select(["item_id", "features", "withdrawn"]).take(touched).to_pylist()
        return Table(
            version=_version(copies[-1]),
            vectors=column.flatten().to_numpy().reshape(-1, column.type.list_size),
            listed=listed,
            extra={item_id: row for row, item_id in enumerate(ids[listed:].to_pylist(), start=listed)},
            features={row["item_id"]: np.array(row["features"]) for row in changed if row["features"] is not None},
            withdrawn=frozenset(row["item_id"] for row in changed if row["withdrawn"]),
            through=int(table["revision"].to_numpy().max(initial=0)),
        )

    def _copies(self) -> list[Path]:
        return sorted(self.directory.glob("table-*.arrow"), key=_version)

    def _copy(self) -> None:
        """Writes the newest version in the order of rows, and drops older copies; who maps one keeps it."""
        dataset = lance().dataset(self._dataset)
        path = self.directory / f"table-{dataset.version}.arrow"
        if path.exists():
            return
        table = dataset.to_table().sort_by("row").combine_chunks()
        listed = int(np.asarray(table["listed"]).sum())
        table = table.replace_schema_metadata({"listed": str(listed)}).drop_columns(["row", "listed"])
        draft = path.with_suffix(f".draft-{os.getpid()}")
        with pa.OSFile(str(draft), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=max(len(table), 1))
        older = self._copies()
        draft.replace(path)
        for copy in older:
            copy.unlink(missing_ok=True)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One writer at a time, over all processes; a process that dies lets go."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "writing.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _version(copy: Path) -> int:
    return int(copy.stem.removeprefix("table-"))


def _rows(item_ids: Sequence[str], chunks: Iterable[Vectors]) -> Iterator[pa.RecordBatch]:
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
            listed=np.ones(len(rows), bool),
        )


def _batches(first: pa.RecordBatch, rest: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield first
    yield from rest


def _news(changes: Sequence[Change], known: pa.Table, width: int) -> pa.Table:
    """Rows of `[n, width]` changes: in their old places, or behind all that are known."""
    latest = {change.item_id: change.proxy for change in changes}
    revision = {change.item_id: change.revision for change in changes}
    at = pc.index_in(pa.array(latest, pa.string()), value_set=known["item_id"].combine_chunks())
    new = at.is_null().to_numpy(zero_copy_only=False)
    places = pc.fill_null(known["row"].combine_chunks().take(at), 0).to_numpy().copy()
    places[new] = len(known) + np.arange(new.sum())
    nothing = np.zeros(width, np.float32)
    return pa.Table.from_batches(
        [
            _batch(
                places,
                list(latest),
                np.array([nothing if proxy is None else proxy.vector for proxy in latest.values()]),
                features=[None if proxy is None else proxy.features for proxy in latest.values()],
                revision=[revision[item_id] for item_id in latest],
                withdrawn=[proxy is None for proxy in latest.values()],
                listed=pc.fill_null(known["listed"].combine_chunks().take(at), False),
            )
        ]
    )


def _batch(row: Any, item_id: Sequence[str], vector: Vectors, **others: Any) -> pa.RecordBatch:
    flat = pa.array(np.ascontiguousarray(vector, np.float32).ravel())
    return pa.record_batch(
        {
            "row": pa.array(row, pa.int64()),
            "item_id": pa.array(item_id, pa.string()),
            "vector": pa.FixedSizeListArray.from_arrays(flat, vector.shape[1]),
            "features": pa.array(others["features"], pa.list_(pa.float64())),
            "revision": pa.array(others["revision"], pa.int64()),
            "withdrawn": pa.array(others["withdrawn"], pa.bool_()),
            "listed": pa.array(others["listed"], pa.bool_()),
        }
    )
