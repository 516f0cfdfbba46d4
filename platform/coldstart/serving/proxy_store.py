"""The proxy store of one release: a gateway replica looks up the proxies of items here.

It has three parts:

- A publication log (`publication_log/`): every acknowledged item is on disk. SQLite by default, Redis for gateways on
  several machines.
- A Lance dataset per space (`proxy_dataset.py`): versioned and written in bulk; first the catalog, then compactions of
  the log.
- In memory, a table mapped from the newest version, and the changes since then. Ranking reads these two.

Why Lance is not the log as well (pylance 14, 2 cores of a shared x86 server, items with an image of 20 kB): an append
takes 1.7 ms at the median and 9 ms at p99 from one writer, but about 100 ms at p99 from three; a merge by id takes
18 ms and 630 ms. Each write leaves a version and a fragment, and none is synced to disk, so data survive a crash of the
process but not of the machine. A commit in SQLite with fsync takes 0.6 ms and 8 ms, and to check for new writes takes
3 us.

All paths contain the adaptor's fingerprint, so vectors of different ID spaces are never mixed.
"""

import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from coldstart.config.recipe import Store
from coldstart.serving.neighbors import MatureItemIndex
from coldstart.serving.proxy_dataset import ProxyDataset, ProxyTable
from coldstart.serving.publication_log import Change, Proxy, PublishedItem, Vectors, open_publication_log

__all__ = ["Proxy", "ProxyStore", "PublishedItem", "Vectors"]

_MAX_CHANGES = 1_000
"""Changes that one request may apply before it is answered: a few milliseconds."""
_MAX_DELAYS = 10_000


class ProxyStore:
    """Proxies of one release, as seen by one process.

    One thread may look up and catch up; any thread may use the publication log.

    Args:
        root: Parent directory of all stores, on local disk.
        space: Fingerprint of the adaptor that made the proxies.
        settings: `serving.store` of the recipe.

    Attributes:
        publication_log: The log.
        mature_items: ID rows for the neighbor search.
        newest_at: Unix seconds at which the newest applied proxy was stored; None before the first.
    """

    def __init__(self, root: Path, space: str, settings: Store | None = None) -> None:
        settings = settings or Store()
        self.publication_log = open_publication_log(settings, root, space)
        self._dataset = ProxyDataset(root / space[:32])
        self.mature_items = MatureItemIndex(root / space[:32], settings.ann_min_items)
        self._compact_after = settings.compact_after
        self._changed: dict[str, Change] = {}
        self._last_revision = 0
        self._has_more = True
        self.newest_at: float | None = None
        self._delays: deque[float] = deque(maxlen=_MAX_DELAYS)
        self._compacting: Future[ProxyTable] | None = None
        self._compactor = ThreadPoolExecutor(1, "compact")
        self._use_table(self._dataset.table())
        self._catch_up_fully()
        # Items published before this process started have no propagation delay.
        self._delays.clear()

    def write_catalog(self, item_ids: Sequence[str], chunks: Iterable[Vectors]) -> None:
        """Writes the proxies of the release's catalog, unless they are on disk.

        Args:
            item_ids: [N] in order of item index, from 1.
            chunks: Proxies `[*, d]` in order of item index, from 0.
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
        """Seconds from the store to this process, for each proxy applied since the last call."""
        found = list(self._delays)
        self._delays.clear()
        return found

    def compact(self) -> None:
        """Merges all changes into a new version of the Lance dataset; new replicas start from it."""
        self._catch_up_fully()
        self._use_table(self._compact(list(self._changed.values())))

    def proxy(self, item_id: str, index: int = 0) -> Vectors | None:
        """[d] the proxy of an item, as of the last `catch_up`; None if it has none.

        Args:
            item_id: The item.
            index: Its index in the release's catalog, 0 if it is not in it.
        """
        change = self._changed.get(item_id)
        if change is not None:
            return None if change.proxy is None else change.proxy.vector
        if item_id in self._table.withdrawn:
            return None
        row = index or self._table.extra_rows.get(item_id, 0)
        return self._table.vectors[row] if row and row < len(self._table.vectors) else None

    def features(self, item_id: str) -> npt.NDArray[np.float64] | None:
        """[C + N] codes, then numbers, of an item that was published with features; else None."""
        change = self._changed.get(item_id)
        if change is not None:
            return None if change.proxy is None else change.proxy.features
        return self._table.features.get(item_id)

    def is_withdrawn(self, item_id: str) -> bool:
        """Whether an item was deleted and has not been published since."""
        change = self._changed.get(item_id)
        return item_id in self._table.withdrawn if change is None else change.proxy is None

    def close(self) -> None:
        """Closes files and connections."""
        self._compactor.shutdown(wait=True)
        self.publication_log.close()

    def _catch_up_fully(self) -> None:
        self._has_more = True
        while self._has_more:
            self.catch_up()

    def _compact(self, changes: list[Change]) -> ProxyTable:
        self._dataset.compact(changes)
        return self._dataset.table()

    def _use_table(self, table: ProxyTable) -> None:
        self._table = table
        self._changed = {
            name: change for name, change in self._changed.items() if change.revision > table.last_revision
        }
        self._last_revision = max(self._last_revision, table.last_revision)
