"""The proxy store of one release: what a gateway replica asks for the vector of an item.

Three things, each where it is good:

- A log of publications (`publications/`): what was acknowledged is on disk. SQLite by default, Redis for gateways on
  several machines.
- A Lance dataset per space (`proxy_base.py`): versioned, written in bulk; the catalogue first, then folds of the log.
- A table mapped from the newest version and the changes since, in memory: what ranking reads.

Why Lance is not the log as well (pylance 14, 2 cores of a shared x86 server, items with a picture of 20 kB): an append
takes 1.7 ms at the median and 9 ms at p99 from one writer, but about 100 ms at p99 from three, a merge by id 18 ms and
630 ms; each leaves a version and a fragment behind, and none is synced to disk, so that it survives the process but not
the machine. A commit in SQLite takes 0.6 ms and 8 ms with fsync, and telling that nobody wrote since takes 3 us.

Everything is named by the adaptor's fingerprint, so vectors of different ID spaces never meet.
"""

import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from coldstart.config.recipe import Store
from coldstart.serving.neighbours import MatureItems
from coldstart.serving.proxy_base import ProxyBase, Table
from coldstart.serving.publications import Change, Item, Proxy, Vectors, open_publications

__all__ = ["Item", "Proxy", "ProxyStore", "Vectors"]

_MOST_AT_ONCE = 1_000
"""Changes that one request may take in before it is answered: a few milliseconds."""
_DELAYS = 10_000


class ProxyStore:
    """Proxies of one release, as one process sees them.

    Looking up and catching up are for one thread, publications for any.

    Args:
        root: Directory of all stores, on local disk.
        space: Fingerprint of the adaptor whose proxies these are.
        settings: The recipe's section.

    Attributes:
        publications: The log.
        mature: ID rows that neighbours are searched among.
        newest_at: Unix seconds at which the newest proxy was stored that was taken in; None before the first.
    """

    def __init__(self, root: Path, space: str, settings: Store | None = None) -> None:
        settings = settings or Store()
        self.publications = open_publications(settings, root, space)
        self._base = ProxyBase(root / space[:32])
        self.mature = MatureItems(root / space[:32], settings.ann_from)
        self._fold_after = settings.fold_after
        self._changed: dict[str, Change] = {}
        self._through = 0
        self._behind = True
        self.newest_at: float | None = None
        self._delays: deque[float] = deque(maxlen=_DELAYS)
        self._folding: Future[Table] | None = None
        self._folder = ThreadPoolExecutor(1, "fold")
        self._adopt(self._base.table())
        self._catch_up_wholly()
        # What was there before did not wait for this process.
        self._delays.clear()

    def write_catalogue(self, item_ids: Sequence[str], chunks: Iterable[Vectors]) -> None:
        """Writes the proxies of the release's catalogue, if they are not there yet.

        Args:
            item_ids: [N] in order of item index, from 1.
            chunks: Proxies `[*, d]` by item index, from 0.
        """
        self._base.write(item_ids, chunks)
        self._adopt(self._base.table())

    def catch_up(self) -> None:
        """Takes in what anybody has published, renewed or withdrawn since; microseconds if nobody has."""
        if self._folding is not None and self._folding.done():
            done, self._folding = self._folding, None
            self._adopt(done.result())
        if not (self._behind or self.publications.stirred()):
            return
        changes = self.publications.changes(self._through, _MOST_AT_ONCE)
        self._behind = len(changes) == _MOST_AT_ONCE
        now = time.time()
        for change in changes:
            self._changed[change.item_id] = change
            self._through = change.revision
            if change.at is not None:
                self._delays.append(max(now - change.at, 0.0))
                self.newest_at = max(change.at, self.newest_at or 0.0)
        if len(self._changed) >= self._fold_after and self._table.version and self._folding is None:
            self._folding = self._folder.submit(self._fold, list(self._changed.values()))

    def delays(self) -> list[float]:
        """Seconds from the store to here, of the proxies that were taken in since the last call."""
        found = list(self._delays)
        self._delays.clear()
        return found

    def fold(self) -> None:
        """Moves all changes into a new version of the Lance dataset, so that replicas start from it."""
        self._catch_up_wholly()
        self._adopt(self._fold(list(self._changed.values())))

    def proxy(self, item_id: str, index: int = 0) -> Vectors | None:
        """[d] the proxy of an item, as of the last `catch_up`; None if there is none.

        Args:
            item_id: The item.
            index: Its index in the release's catalogue, 0 if it has none.
        """
        change = self._changed.get(item_id)
        if change is not None:
            return None if change.proxy is None else change.proxy.vector
        if item_id in self._table.withdrawn:
            return None
        row = index or self._table.extra.get(item_id, 0)
        return self._table.vectors[row] if row and row < len(self._table.vectors) else None

    def features(self, item_id: str) -> npt.NDArray[np.float64] | None:
        """[C + N] codes, then numbers of an item that was published with features."""
        change = self._changed.get(item_id)
        if change is not None:
            return None if change.proxy is None else change.proxy.features
        return self._table.features.get(item_id)

    def withdrawn(self, item_id: str) -> bool:
        """Whether an item was deleted and not published since."""
        change = self._changed.get(item_id)
        return item_id in self._table.withdrawn if change is None else change.proxy is None

    def close(self) -> None:
        """Lets go of files and connections."""
        self._folder.shutdown(wait=True)
        self.publications.close()

    def _catch_up_wholly(self) -> None:
        self._behind = True
        while self._behind:
            self.catch_up()

    def _fold(self, changes: list[Change]) -> Table:
        self._base.fold(changes)
        return self._base.table()

    def _adopt(self, table: Table) -> None:
        self._table = table
        self._changed = {name: change for name, change in self._changed.items() if change.revision > table.through}
        self._through = max(self._through, table.through)
