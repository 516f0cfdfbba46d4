"""Fine proxies by item: those of the catalogue in one memory-mapped table, published ones in SQLite.

Everything of one release lies in a directory named by the adaptor's fingerprint, so vectors of different ID spaces
never meet. SQLite in WAL mode keeps what was acknowledged through a crash and lets every gateway replica of a machine
write and read; gateways are kept on one machine for that reason (see `application.deploy`).
"""

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from coldstart.data.features import Coded

Vectors = npt.NDArray[np.float32]

_BULK = "catalogue.arrow"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS published (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    item_id TEXT NOT NULL UNIQUE,
    published_at REAL NOT NULL,
    vector BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS features (item_id TEXT PRIMARY KEY, vector BLOB NOT NULL)
"""


class ProxyStore:
    """Proxies of one release.

    Args:
        root: Directory of all stores, on local disk.
        space: Fingerprint of the adaptor whose proxies these are.
    """

    def __init__(self, root: Path, space: str) -> None:
        self.directory = root / space[:32]
        self.directory.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, Vectors] = {}
        self._features: dict[str, npt.NDArray[np.float64]] = {}
        self._sequence = 0
        self._bulk: Vectors | None = None
        self._writing = threading.Lock()
        self._writer = self._open()
        self._writer.executescript(_SCHEMA)
        self._reader = self._open()

    def write_catalogue(self, chunks: Iterator[Vectors]) -> None:
        """Writes the proxies of the catalogue, rows by item index from 0, if they are not there yet."""
        path = self.directory / _BULK
        if path.exists():
            return
        draft = path.with_suffix(f".draft-{os.getpid()}")
        rows = np.concatenate(list(chunks)).astype(np.float32, copy=False)
        column = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
        table = pa.table({"proxy": column})
        with pa.OSFile(str(draft), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=max(len(rows), 1))
        draft.replace(path)

    @property
    def catalogue(self) -> Vectors:
        """Proxies `[N + 1, d]` by item index, mapped from disk; row 0 stands for nothing."""
        if self._bulk is None:
            with pa.memory_map(str(self.directory / _BULK)) as source:
                column = pa.ipc.open_file(source).read_all()["proxy"].chunk(0)
            self._bulk = column.flatten().to_numpy().reshape(-1, column.type.list_size)
        return self._bulk

    def publish(self, item_id: str, vector: Vectors, features: Coded | None = None) -> None:
        """Stores the proxy of an item in place of any earlier one; on return it survives a crash.

        Args:
            item_id: The item.
            vector: [d] its proxy.
            features: [1, C] and [1, N] its encoded features; None keeps those it had.
        """
        blob = np.ascontiguousarray(vector, np.dtype("<f4")).tobytes()
        with self._writing, self._writer:
            if features is not None:
                # Codes are whole numbers far below 2 ** 53.
                both = np.concatenate([features.categorical[0], features.numeric[0]]).astype(np.dtype("<f8"))
                self._writer.execute("INSERT OR REPLACE INTO features VALUES (?, ?)", (item_id, both.tobytes()))
            self._writer.execute(
                "INSERT OR REPLACE INTO published (item_id, published_at, vector) VALUES (?, ?, ?)",
                (item_id, time.time(), blob),
            )

    def published(self) -> dict[str, Vectors]:
        """Proxies `[d]` of all published items, by every replica that shares the directory, up to this moment."""
        news = self._reader.execute(
            "SELECT sequence, item_id, published.vector, features.vector FROM published LEFT JOIN features "
            "USING (item_id) WHERE sequence > ? ORDER BY sequence",
            (self._sequence,),
        ).fetchall()
        for sequence, item_id, blob, features in news:
            self._known[item_id] = np.frombuffer(blob, np.dtype("<f4"))
            if features is not None:
                self._features[item_id] = np.frombuffer(features, np.dtype("<f8"))
            self._sequence = sequence
        return self._known

    @property
    def published_features(self) -> dict[str, npt.NDArray[np.float64]]:
        """Codes, then numbers `[C + N]` of items that were published with features, as `published` last saw them."""
        return self._features

    def close(self) -> None:
        """Closes the database."""
        self._writer.close()
        self._reader.close()

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.directory / "published.sqlite", timeout=10, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        return connection
