"""Nearest mature items: whose trained ID rows point where a proxy points.

Below `serving.store.ann_from` items all rows are compared, in 1.3 ms for 100,000 and 6 ms for 500,000 rows of width 64;
from there on an IVF index of Lance is asked. Legend: `M` mature items, `d` ID width.
"""

import os
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from coldstart.serving.lance_files import lance
from coldstart.serving.publications import Vectors

Search = Literal["exact", "index"]
_CELL = 4096
"""Rows per cell of the index."""
_PROBES = 20
"""Cells that a search reads."""


class MatureItems:
    """ID rows of the items that have a trained one, at unit length, mapped from disk.

    Args:
        directory: Of the release's space, on local disk.
        ann_from: Number of items from which an index is made and used.
    """

    def __init__(self, directory: Path, ann_from: int) -> None:
        self._file, self._dataset = directory / "mature.arrow", directory / "mature.lance"
        self.ann_from = ann_from

    @property
    def written(self) -> bool:
        """Whether the rows are there."""
        return self._file.exists()

    def write(self, item_ids: Sequence[str], rows: Vectors) -> None:
        """Writes `[M, d]` rows, unless they are there."""
        if self.written:
            return
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        unit = (rows / np.maximum(lengths, 1e-12)).astype(np.float32)
        lists = pa.FixedSizeListArray.from_arrays(pa.array(unit.ravel()), unit.shape[1])
        table = pa.table({"item_id": pa.array(item_ids, pa.string()), "row": lists})
        if len(table) >= self.ann_from:
            self._write_index(table)
        draft = self._file.with_suffix(f".draft-{os.getpid()}")
        with pa.OSFile(str(draft), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=max(len(table), 1))
        draft.replace(self._file)

    def _write_index(self, table: pa.Table) -> None:
        placed = table.append_column("place", pa.array(np.arange(len(table))))
        dataset = lance().write_dataset(placed, self._dataset, mode="overwrite")
        dataset.create_index("row", "IVF_FLAT", metric="cosine", num_partitions=max(len(table) // _CELL, 1))

    def nearest(self, vector: Vectors, k: int, skip: Callable[[str], bool]) -> tuple[list[tuple[str, float]], Search]:
        """The `k` items of the largest cosine with `vector` [d], best first, and how they were searched.

        Args:
            vector: Of any length.
            k: At least 1.
            skip: Items that must not be among them.
        """
        unit = vector / max(float(np.linalg.norm(vector)), 1e-12)
        ids, rows = self._mapped
        wanted = k + 1  # Often the item itself is among them.
        while True:
            places, search = self._places(unit, min(wanted, len(ids)))
            cosines = rows[places] @ unit
            order = np.argsort(-cosines, kind="stable")
            named = [(ids[places[at]].as_py(), float(cosines[at])) for at in order]
            found = [(item_id, cosine) for item_id, cosine in named if not skip(item_id)]
            if len(found) >= k or wanted >= len(ids):
                return found[:k], search
            wanted *= 4

    def _places(self, unit: Vectors, count: int) -> tuple[Any, Search]:
        _, rows = self._mapped
        if self._index is None:
            return np.argpartition(-(rows @ unit), count - 1)[:count] if count else np.zeros(0, int), "exact"
        query = {"column": "row", "q": unit, "k": count, "nprobes": _PROBES}
        return np.asarray(self._index.to_table(columns=["place", "_distance"], nearest=query)["place"]), "index"

    @cached_property
    def _mapped(self) -> tuple[pa.Array, Vectors]:
        with pa.memory_map(str(self._file)) as source:
            table = pa.ipc.open_file(source).read_all()
        lists = table["row"].chunk(0)
        return table["item_id"].chunk(0), lists.flatten().to_numpy().reshape(-1, lists.type.list_size)

    @cached_property
    def _index(self) -> Any:
        if len(self._mapped[0]) < self.ann_from or not self._dataset.exists():
            return None
        return lance().dataset(self._dataset)
