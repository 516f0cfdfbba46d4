"""The item store of one release: a gateway replica looks up the rows of items here, which the scorer reads.

It has three parts:

- A publication log (`publication_log/`): every acknowledged item is on disk. SQLite by default, Redis for gateways on
  several machines.
- A Lance dataset per space (`item_dataset.py`): versioned and written in bulk; first the catalog, then compactions of
  the log.
- In memory, a table mapped from the newest version, and the changes since then. Ranking reads these two.

Why Lance is not the log as well (pylance 14, 2 cores of a shared x86 server, items with an image of 20 kB): an append
takes 1.7 ms at the median and 9 ms at p99 from one writer, but about 100 ms at p99 from three; a merge by id takes
18 ms and 630 ms. Each write leaves a version and a fragment, and none is synced to disk, so data survive a crash of the
process but not of the machine. A commit in SQLite with fsync takes 0.6 ms and 8 ms, and to check for new writes takes
3 us.

All paths contain the scorer's fingerprint, so rows of different spaces are never mixed.
"""

import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from coldstart.config.recipe import Store
from coldstart.data.item_table import ColumnSpecs, Rows
from coldstart.serving.core.neighbors import NeighborIndex
from coldstart.serving.store.item_dataset import ItemDataset, MappedRows
from coldstart.serving.store.publication_log import Change, open_publication_log
from coldstart.serving.store.row_layout import Row

Ints = npt.NDArray[np.int64]
_MAX_CHANGES = 1_000
"""Changes that one request may apply before it is answered: a few milliseconds."""
_MAX_DELAYS = 10_000


@dataclass(frozen=True)
class FoundRows:
    """Rows of `n` items.

    Attributes:
        rows: [1 + n] row 0 is the unknown item, row `i + 1` that of item `i`; equal to row 0 if it has none.
        has_row: [n] whether each item has a row.
        withdrawn: Positions of items that were deleted.
    """

    rows: Rows
    has_row: npt.NDArray[np.bool_]
    withdrawn: list[int]


class ItemStore:
    """Item rows of one release, as seen by one process.

    One thread may look up and catch up; any thread may use the publication log.

    Args:
        root: Parent directory of all stores, on local disk.
        space: Fingerprint of the scorer that reads the rows.
        columns: Columns of a row, the outputs of the release's adaptor.
        settings: `serving.store` of the recipe.

    Attributes:
        directory: Directory of this space.
        publication_log: The log.
        neighbors: Items that a search for similar items finds.
        newest_at: Unix seconds at which the newest applied row was stored; None before the first.

    Raises:
        UserError: rows in the store have other columns; the message names them.
    """

    def __init__(self, root: Path, space: str, columns: ColumnSpecs, settings: Store | None = None) -> None:
        settings = settings or Store()
        self.directory = store_directory(root, space)
        self.publication_log = open_publication_log(settings, root, space, columns)
        self._dataset = ItemDataset(self.directory, columns)
        self.neighbors = NeighborIndex(self.directory, settings.ann_min_items)
        self._compact_after = settings.compact_after
        self._changed: dict[str, Change] = {}
        self._last_revision = 0
        self._has_more = True
        self.newest_at: float | None = None
        self._delays: deque[float] = deque(maxlen=_MAX_DELAYS)
        self._compacting: Future[MappedRows] | None = None
        self._compactor = ThreadPoolExecutor(1, "compact")
        self._use_table(self._dataset.table())
        self._catch_up_fully()
        # Items published before this process started have no propagation delay.
        self._delays.clear()

    def write_catalog(self, item_ids: Sequence[str], chunks: Iterable[Rows]) -> None:
        """Writes the rows of the release's catalog, unless they are on disk.

        Args:
            item_ids: [N] in order of item index, from 1.
            chunks: Rows in order of item index, from 0, the unknown item.
        """
        self._dataset.write(item_ids, chunks)
        self._use_table(self._dataset.table())

    def catch_up(self) -> None:
        """Applies all changes since the last call, of any process; takes microseconds if there are none."""
        if self._compacting is not None and self._compacting.done():
            done, self._compacting = self._compacting, None
            self._use_table(done.result())
        if not (self._has_more or self.publication_log.has_changes()):
            return
        changes = self.publication_log.changes(self._last_revision, _MAX_CHANGES)
        self._has_more = len(changes) == _MAX_CHANGES
        now = time.time()
        for change in changes:
            self._changed[change.item_id] = change
            self._last_revision = change.revision
            if change.stored_at is not None:
                self._delays.append(max(now - change.stored_at, 0.0))
                self.newest_at = max(change.stored_at, self.newest_at or 0.0)
        if len(self._changed) >= self._compact_after and self._table.version and self._compacting is None:
            self._compacting = self._compactor.submit(self._compact, list(self._changed.values()))

    def pop_delays(self) -> list[float]:
        """Seconds from the store to this process, for each row applied since the last call."""
        found = list(self._delays)
        self._delays.clear()
        return found

    def compact(self) -> None:
        """Merges all changes into a new version of the Lance dataset; new replicas start from it."""
        self._catch_up_fully()
        self._use_table(self._compact(list(self._changed.values())))

    def row(self, item_id: str, index: int = 0) -> Row | None:
        """The row of an item, as of the last `catch_up`; None if it has none.

        Args:
            item_id: The item.
            index: Its index in the release's catalog, 0 if it is not in it.
        """
        found = self.find_rows([item_id], np.array([index]))
        row: Row | None = found.rows[1] if found.has_row[0] else None
        return row

    @property
    def catalog_rows(self) -> Rows:
        """[N + 1] rows of the catalog as of the last compaction, mapped from disk; row 0 is the unknown item."""
        return self._table.rows[: self._table.num_catalog_rows]

    def find_rows(self, item_ids: Sequence[str | None], index: Ints) -> FoundRows:
        """The rows of items, as of the last `catch_up`.

        Args:
            item_ids: [n]; None for an item that has no id.
            index: [n] indices in the release's catalog, 0 for items that are not in it.
        """
        table = self._table
        number = np.zeros(len(index) + 1, np.int64)
        number[1:] = index
        if not table.version:
            number[:] = 0
        elif table.extra_rows:
            for position in np.flatnonzero(index == 0).tolist():
                number[position + 1] = table.extra_rows.get(item_ids[position] or "", 0)
        changed, withdrawn = self._changed, table.withdrawn
        if not changed and not withdrawn:
            return FoundRows(table.rows.take(number), number[1:] > 0, [])
        names = set(item_ids)
        deleted = withdrawn & names
        latest = {name: changed[name] for name in changed.keys() & names}
        positions = (
            [position for position, name in enumerate(item_ids) if name in latest or name in deleted]
            if latest or deleted
            else []
        )
        gone = [at for at in positions if self.is_withdrawn(item_ids[at] or "")]
        for position in gone:
            number[position + 1] = 0
        rows, has_row = table.rows.take(number), number[1:] > 0
        for position in positions:
            change = latest.get(item_ids[position] or "")
            if change is not None and change.row is not None:
                rows[position + 1], has_row[position] = change.row.values, True
        return FoundRows(rows, has_row, gone)

    def features(self, item_id: str) -> npt.NDArray[np.float64] | None:
        """[C + N] codes, then numbers, of an item that was published with features; else None."""
        change = self._changed.get(item_id)
        if change is not None:
            return None if change.row is None else change.row.features
        return self._table.features.get(item_id)

    def is_withdrawn(self, item_id: str) -> bool:
        """Whether an item was deleted and has not been published since."""
        change = self._changed.get(item_id)
        return item_id in self._table.withdrawn if change is None else change.row is None

    def close(self) -> None:
        """Closes files and connections."""
        self._compactor.shutdown(wait=True)
        self.publication_log.close()

    def _catch_up_fully(self) -> None:
        self._has_more = True
        while self._has_more:
            self.catch_up()

    def _compact(self, changes: list[Change]) -> MappedRows:
        self._dataset.compact(changes)
        return self._dataset.table()

    def _use_table(self, table: MappedRows) -> None:
        self._table = table
        self._changed = {
            name: change for name, change in self._changed.items() if change.revision > table.last_revision
        }
        self._last_revision = max(self._last_revision, table.last_revision)


def store_directory(root: Path, space: str) -> Path:
    """Directory of a space: its catalog, its neighbors, and what is known of its scorer."""
    return root / space[:32]
