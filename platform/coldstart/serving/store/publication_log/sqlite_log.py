"""The publication log in SQLite, for gateways that share a disk.

WAL mode with `synchronous = FULL`: a commit is on disk when it returns, and many processes read while one writes.
`PRAGMA data_version` shows within three microseconds whether another process has written.
"""

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coldstart.data.content import Content
from coldstart.data.item_table import ColumnSpecs
from coldstart.serving.store.publication_log.interface import (
    Change,
    ItemRow,
    PublicationLog,
    PublicationState,
    PublishedItem,
    RowCodec,
)

_FILE = "publications.sqlite"
# Contents have their own table: SQLite reads through an image to reach the columns after it.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS counter (one INTEGER PRIMARY KEY CHECK (one = 1), revision INTEGER NOT NULL);
INSERT OR IGNORE INTO counter VALUES (1, 0);
CREATE TABLE IF NOT EXISTS items (
    item_id TEXT PRIMARY KEY,
    revision INTEGER NOT NULL,
    published_at REAL NOT NULL,
    origin TEXT NOT NULL,
    digest TEXT NOT NULL,
    withdrawn INTEGER NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS items_by_revision ON items (revision);
CREATE TABLE IF NOT EXISTS contents (item_id TEXT PRIMARY KEY, title TEXT, text TEXT, features TEXT, image BLOB);
CREATE TABLE IF NOT EXISTS item_rows (
    space TEXT NOT NULL,
    item_id TEXT NOT NULL,
    revision INTEGER NOT NULL,
    made_from INTEGER NOT NULL,
    ready_at REAL NOT NULL,
    columns TEXT NOT NULL,
    bytes BLOB NOT NULL,
    features BLOB,
    PRIMARY KEY (space, item_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS item_rows_by_revision ON item_rows (space, revision);
CREATE TABLE IF NOT EXISTS space_values (space TEXT, key TEXT, value TEXT, PRIMARY KEY (space, key))
"""
_PUBLISH = """
INSERT INTO items VALUES (?, ?, ?, ?, ?, 0) ON CONFLICT (item_id) DO UPDATE SET revision = excluded.revision,
    published_at = excluded.published_at, origin = excluded.origin, digest = excluded.digest, withdrawn = 0
WHERE excluded.origin = 'api'
    OR (NOT items.withdrawn AND (items.origin = 'catalog' OR items.published_at < excluded.published_at))
"""
_CONTENT = """
INSERT INTO contents VALUES (?, ?, ?, ?, ?) ON CONFLICT (item_id) DO UPDATE SET title = excluded.title,
    text = excluded.text, image = excluded.image, features = COALESCE(excluded.features, features)
"""
_ROW = """
INSERT INTO item_rows VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (space, item_id) DO UPDATE SET
    revision = excluded.revision, made_from = excluded.made_from, ready_at = excluded.ready_at,
    columns = excluded.columns, bytes = excluded.bytes, features = COALESCE(excluded.features, features)
"""
_CHANGES = """
SELECT revision, item_id, ready_at, columns, bytes, features FROM item_rows WHERE space = ? AND revision > ?
UNION ALL SELECT revision, item_id, NULL, NULL, NULL, NULL FROM items WHERE withdrawn AND revision > ?
ORDER BY revision LIMIT ?
"""
_ITEMS = """
SELECT items.item_id, title, text, image, contents.features, published_at, origin, digest, items.revision, ready_at
FROM items JOIN contents ON contents.item_id = items.item_id
LEFT JOIN item_rows ON item_rows.item_id = items.item_id AND space = ?
"""


class SqlitePublicationLog(PublicationLog):
    """The publication log in one file.

    Args:
        root: Parent directory of all item stores, on local disk.
        space: Fingerprint of the scorer that reads the rows.
        columns: Columns of a row.
    """

    def __init__(self, root: Path, space: str, columns: ColumnSpecs) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self._space, self._codec = space, RowCodec(columns)
        self._lock = threading.Lock()
        self._writer = self._open(root)
        with self._transaction() as database:
            for statement in _SCHEMA.split(";\n"):
                database.execute(statement)
        self._reader = self._open(root)
        self._last_data_version: int | None = None

    def publish(self, entries: Sequence[tuple[PublishedItem, ItemRow]]) -> list[int]:
        """See `PublicationLog.publish`."""
        with self._transaction() as database:
            return [self._publish(database, item, row) for item, row in entries]

    def _publish(self, database: sqlite3.Connection, item: PublishedItem, row: ItemRow) -> int:
        revision = _next(database)
        published = (item.item_id, revision, item.published_at, item.origin, item.digest)
        if not database.execute(_PUBLISH, published).rowcount:
            return 0
        content, features = item.content, None if item.features is None else json.dumps(dict(item.features))
        database.execute(_CONTENT, (item.item_id, content.title, content.text, features, content.image))
        database.execute(_ROW, self._fields(item.item_id, revision, revision, row))
        return revision

    def update_rows(self, entries: Sequence[tuple[PublishedItem, ItemRow]]) -> None:
        """See `PublicationLog.update_rows`."""
        with self._transaction() as database:
            for item, row in entries:
                current_item = "SELECT 1 FROM items WHERE item_id = ? AND revision = ? AND NOT withdrawn"
                if database.execute(current_item, (item.item_id, item.revision)).fetchone():
                    database.execute(_ROW, self._fields(item.item_id, _next(database), item.revision, row))

    def _fields(self, item_id: str, revision: int, made_from: int, row: ItemRow) -> tuple[Any, ...]:
        return (self._space, item_id, revision, made_from, time.time(), self._codec.layout, *self._codec.encode(row))

    def withdraw(self, item_id: str) -> None:
        """See `PublicationLog.withdraw`."""
        with self._transaction() as database:
            database.execute(
                "INSERT OR REPLACE INTO items VALUES (?, ?, ?, 'api', '', 1)", (item_id, _next(database), time.time())
            )
            for table in ("contents", "item_rows"):
                database.execute(f"DELETE FROM {table} WHERE item_id = ?", (item_id,))

    def find(self, item_id: str) -> PublishedItem | None:
        """See `PublicationLog.find`."""
        with self._lock:
            row = self._writer.execute(f"{_ITEMS} WHERE items.item_id = ?", (self._space, item_id)).fetchone()
        return row and _item(*row)

    def items_without_row(self, after: int, limit: int) -> list[PublishedItem]:
        """See `PublicationLog.items_without_row`."""
        missing = "WHERE items.revision > ? AND made_from IS NOT items.revision ORDER BY items.revision LIMIT ?"
        with self._lock:
            rows = self._writer.execute(f"{_ITEMS} {missing}", (self._space, after, limit)).fetchall()
        return [_item(*row) for row in rows]

    def states(self) -> dict[str, PublicationState]:
        """See `PublicationLog.states`."""
        query = (
            "SELECT items.item_id, digest, origin, published_at, made_from IS items.revision, withdrawn FROM items "
            "LEFT JOIN item_rows ON item_rows.item_id = items.item_id AND space = ?"
        )
        with self._lock:
            rows = self._writer.execute(query, (self._space,)).fetchall()
        return {
            item_id: PublicationState(digest, origin, at, bool(current), bool(withdrawn))
            for item_id, digest, origin, at, current, withdrawn in rows
        }

    def changes(self, since: int, limit: int) -> list[Change]:
        """See `PublicationLog.changes`; not thread-safe."""
        rows = self._reader.execute(_CHANGES, (self._space, since, since, limit)).fetchall()
        return [
            Change(revision, item_id, self._codec.decode(item_id, *stored) if stored[0] else None, at)
            for revision, item_id, at, *stored in rows
        ]

    def has_changes(self) -> bool:
        """See `PublicationLog.has_changes`; not thread-safe."""
        (version,) = self._reader.execute("PRAGMA data_version").fetchone()
        has_changes: bool = version != self._last_data_version
        self._last_data_version = version
        return has_changes

    def get_value(self, key: str) -> str | None:
        """See `PublicationLog.get_value`."""
        with self._lock:
            row = self._writer.execute("SELECT value FROM space_values WHERE space = ? AND key = ?", (self._space, key))
            found = row.fetchone()
        return found and str(found[0])

    def set_value(self, key: str, value: str) -> None:
        """See `PublicationLog.set_value`."""
        with self._transaction() as database:
            database.execute("INSERT OR REPLACE INTO space_values VALUES (?, ?, ?)", (self._space, key, value))

    def close(self) -> None:
        """See `PublicationLog.close`."""
        self._writer.close()
        self._reader.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            # IMMEDIATE: a transaction that starts by reading fails if another process writes in between.
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
            except BaseException:
                self._writer.execute("ROLLBACK")
                raise
            self._writer.execute("COMMIT")

    def _open(self, root: Path) -> sqlite3.Connection:
        database = sqlite3.connect(root / _FILE, timeout=10, check_same_thread=False, isolation_level=None)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        return database


def _next(database: sqlite3.Connection) -> int:
    (revision,) = database.execute("UPDATE counter SET revision = revision + 1 RETURNING revision").fetchone()
    return int(revision)


def _item(item_id: str, title: Any, text: Any, image: Any, features: Any, *known: Any) -> PublishedItem:
    published_at, origin, digest, revision, ready_at = known
    raw = None if features is None else json.loads(features)
    return PublishedItem(item_id, Content(title, text, image), raw, published_at, origin, digest, revision, ready_at)
