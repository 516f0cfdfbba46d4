"""The publication log in Redis, for gateways on several machines.

Every write is one script, so it is atomic and revisions become visible in order. To keep acknowledged items through a
crash, the server must run with `appendonly yes`. A thread polls for changes, so that no request waits for the network;
while the server does not respond, ranking continues with the items received so far.
"""

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Any

import redis

from coldstart.config import UserError
from coldstart.config.recipe import Store
from coldstart.data.content import Content
from coldstart.data.item_table import ColumnSpecs
from coldstart.serving.store.publication_log.interface import (
    Change,
    ItemRow,
    Origin,
    PublicationLog,
    PublicationState,
    PublishedItem,
    RowCodec,
)

LOG = logging.getLogger("ray.serve")

_POLL_S = 0.05
_RETRY_S = 1.0
_PAGE = 1_000
# The hash tag puts all keys into one slot of a Redis cluster, as a script uses several keys.
_PREFIX = "{coldstart}:"
_STORE_ROW = """
redis.call('ZADD', KEYS[4], revision, ARGV[1])
redis.call('SADD', KEYS[5], ARGV[2])
redis.call('HSET', KEYS[6], 'made_from', made_from, 'ready_at', ARGV[3], 'columns', ARGV[4], 'bytes', ARGV[5])
if ARGV[6] ~= '' then redis.call('HSET', KEYS[6], 'features', ARGV[6]) end
return revision
"""
_PUBLISH = (
    """
local known = redis.call('HMGET', KEYS[2], 'withdrawn', 'origin', 'published_at')
if ARGV[8] ~= 'api' and known[1] then
    if known[1] == '1' or (known[2] == 'api' and tonumber(known[3]) >= tonumber(ARGV[7])) then return 0 end
end
local revision = redis.call('INCR', KEYS[1])
local made_from = revision
redis.call('HSET', KEYS[2], 'revision', revision, 'withdrawn', 0, 'published_at', ARGV[7], 'origin', ARGV[8],
    'digest', ARGV[9], 'text', ARGV[10], 'image', ARGV[11])
if ARGV[12] ~= '' then redis.call('HSET', KEYS[2], 'features', ARGV[12]) end
redis.call('ZADD', KEYS[3], revision, ARGV[1])
redis.call('ZREM', KEYS[7], ARGV[1])
"""
    + _STORE_ROW
)
_UPDATE_ROW = (
    """
local known = redis.call('HMGET', KEYS[2], 'withdrawn', 'revision')
if known[1] ~= '0' or known[2] ~= ARGV[7] then return 0 end
local revision = redis.call('INCR', KEYS[1])
local made_from = ARGV[7]
"""
    + _STORE_ROW
)
_WITHDRAW = """
local revision = redis.call('INCR', KEYS[1])
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[2], 'revision', revision, 'withdrawn', 1, 'published_at', ARGV[2], 'origin', 'api',
    'digest', '')
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZADD', KEYS[5], revision, ARGV[1])
for _, space in ipairs(redis.call('SMEMBERS', KEYS[4])) do
    redis.call('ZREM', ARGV[3] .. 'rows:' .. space, ARGV[1])
    redis.call('DEL', ARGV[3] .. 'row:' .. space .. ':' .. ARGV[1])
end
"""


class RedisPublicationLog(PublicationLog):
    """The publication log on a Redis server.

    Args:
        settings: `serving.store` of the recipe.
        space: Fingerprint of the scorer that reads the rows.
        columns: Columns of a row.

    Raises:
        UserError: the server does not respond, or loses its data at a restart.
    """

    def __init__(self, settings: Store, space: str, columns: ColumnSpecs) -> None:
        password = settings.redis_password_file and settings.redis_password_file.read_text().strip()
        self._server = redis.Redis.from_url(
            settings.redis_url, password=password, socket_timeout=10, socket_connect_timeout=5, health_check_interval=30
        )
        try:
            persistent = self._server.info("persistence").get("aof_enabled")
        except redis.RedisError as error:
            raise UserError(
                f"serving.store.redis_url: no Redis server responds at {settings.redis_url} ({error}); start one, or "
                "set serving.store.kind: lance"
            ) from error
        if not persistent:
            raise UserError(
                f"the Redis server at {settings.redis_url} does not persist writes, so a crash could lose acknowledged "
                "items; start it with `appendonly yes`"
            )
        self._space, self._codec = space, RowCodec(columns)
        self._publish, self._update_rows, self._withdraw = map(
            self._server.register_script, (_PUBLISH, _UPDATE_ROW, _WITHDRAW)
        )
        self._cursor = 0
        self._received: deque[Change] = deque()
        self._poller: threading.Thread | None = None
        self._closed = threading.Event()
        self._failure: UserError | None = None

    def publish(self, entries: Sequence[tuple[PublishedItem, ItemRow]]) -> list[int]:
        """See `PublicationLog.publish`."""
        with self._server.pipeline(transaction=True) as pipeline:
            for item, row in entries:
                content, features = item.content, "" if item.features is None else json.dumps(dict(item.features))
                self._publish(
                    [*self._keys(item.item_id), _key("withdrawn")],
                    [
                        *self._arguments(item.item_id, row),
                        *(repr(item.published_at), item.origin, item.digest),
                        *(json.dumps([content.title, content.text]), content.image or b"", features),
                    ],
                    client=pipeline,
                )
            return [int(revision) for revision in pipeline.execute()]

    def update_rows(self, entries: Sequence[tuple[PublishedItem, ItemRow]]) -> None:
        """See `PublicationLog.update_rows`."""
        with self._server.pipeline(transaction=True) as pipeline:
            for item, row in entries:
                arguments = [*self._arguments(item.item_id, row), item.revision]
                self._update_rows(self._keys(item.item_id), arguments, client=pipeline)
            pipeline.execute()

    def withdraw(self, item_id: str) -> None:
        """See `PublicationLog.withdraw`."""
        keys = [_key("revision"), _key("item", item_id), _key("items"), _key("spaces"), _key("withdrawn")]
        self._withdraw(keys, [item_id, repr(time.time()), _PREFIX])

    def find(self, item_id: str) -> PublishedItem | None:
        """See `PublicationLog.find`."""
        return self._items([item_id])[0]

    def items_without_row(self, after: int, limit: int) -> list[PublishedItem]:
        """See `PublicationLog.items_without_row`."""
        found: list[PublishedItem] = []
        while len(found) < limit:
            page = self._server.zrange(
                _key("items"), f"({after}", "+inf", byscore=True, offset=0, num=_PAGE, withscores=True
            )
            if not page:
                break
            after = int(page[-1][1])
            with self._server.pipeline(transaction=False) as pipeline:
                for name, _ in page:
                    pipeline.hget(self._row_key(name.decode()), "made_from")
                made = pipeline.execute()
            missing = [
                name.decode() for (name, of), at in zip(page, made, strict=True) if at is None or int(at) != int(of)
            ]
            found += [item for item in self._items(missing[: limit - len(found)]) if item is not None]
        return found

    def states(self) -> dict[str, PublicationState]:
        """See `PublicationLog.states`."""
        found: dict[str, PublicationState] = {}
        named = (name.decode() for key in ("items", "withdrawn") for name, _ in self._server.zscan_iter(_key(key)))
        while item_ids := list(islice(named, _PAGE)):
            with self._server.pipeline(transaction=False) as pipeline:
                for item_id in item_ids:
                    pipeline.hmget(_key("item", item_id), "digest", "origin", "published_at", "revision", "withdrawn")
                    pipeline.hget(self._row_key(item_id), "made_from")
                replies = pipeline.execute()
            for item_id, known, made_from in zip(item_ids, replies[::2], replies[1::2], strict=True):
                digest, origin, at, revision, withdrawn = known
                kind: Origin = "api" if origin == b"api" else "catalog"
                found[item_id] = PublicationState(
                    digest.decode(), kind, float(at), made_from == revision, withdrawn == b"1"
                )
        return found

    def changes(self, since: int, limit: int) -> list[Change]:
        """See `PublicationLog.changes`; after the first call of `has_changes`, reads what the poller received."""
        if self._poller is None:
            found = self._fetch(since, limit)
            self._cursor = max([since, *(change.revision for change in found)])
            return found
        received = [self._received.popleft() for _ in range(min(limit, len(self._received)))]
        return [change for change in received if change.revision > since]

    def has_changes(self) -> bool:
        """See `PublicationLog.has_changes`."""
        if self._poller is None:
            self._poller = threading.Thread(target=self._poll, daemon=True, name="redis-poller")
            self._poller.start()
        if self._failure is not None:
            raise self._failure
        return bool(self._received)

    def get_value(self, key: str) -> str | None:
        """See `PublicationLog.get_value`."""
        value = self._server.hget(_key("space_values", self._space), key)
        return None if value is None else str(value.decode())

    def set_value(self, key: str, value: str) -> None:
        """See `PublicationLog.set_value`."""
        self._server.hset(_key("space_values", self._space), key, value)

    def close(self) -> None:
        """See `PublicationLog.close`."""
        self._closed.set()
        if self._poller is not None:
            self._poller.join()
        self._server.close()

    def _poll(self) -> None:
        revision = 0
        while not self._closed.wait(_POLL_S):
            try:
                latest = int(self._server.get(_key("revision")) or 0)
                while revision < latest:
                    found = self._fetch(self._cursor, _PAGE)
                    self._received.extend(found)
                    self._cursor = max([self._cursor, *(change.revision for change in found)])
                    revision = self._cursor if len(found) == _PAGE else latest
            except redis.RedisError as error:
                LOG.warning("Redis does not respond; ranking continues with the items received so far: %s", error)
                self._closed.wait(_RETRY_S)
            except UserError as error:
                self._failure = error
                return

    def _fetch(self, since: int, limit: int) -> list[Change]:
        keys = (_key("rows", self._space), _key("withdrawn"))
        # In one transaction, or a publication between the two reads would be missed.
        with self._server.pipeline(transaction=True) as pipeline:
            for key in keys:
                pipeline.zrange(key, f"({since}", "+inf", byscore=True, offset=0, num=limit, withscores=True)
            made, gone = pipeline.execute()
        names = sorted((int(at), name.decode(), page is made) for page in (made, gone) for name, at in page)[:limit]
        with self._server.pipeline(transaction=False) as pipeline:
            for _, item_id, there in names:
                if there:
                    pipeline.hmget(self._row_key(item_id), "ready_at", "columns", "bytes", "features")
            replies = iter(pipeline.execute())
        rows = [(revision, item_id, next(replies) if there else None) for revision, item_id, there in names]
        # A row that no longer exists was withdrawn meanwhile.
        return [
            Change(revision, name, None, None)
            if stored is None or stored[0] is None
            else Change(revision, name, self._codec.decode(name, stored[1].decode(), *stored[2:]), float(stored[0]))
            for revision, name, stored in rows
        ]

    def _items(self, item_ids: Sequence[str]) -> list[PublishedItem | None]:
        with self._server.pipeline(transaction=False) as pipeline:
            for item_id in item_ids:
                pipeline.hgetall(_key("item", item_id))
                pipeline.hmget(self._row_key(item_id), "ready_at")
            replies = pipeline.execute()
        return [
            _item(item_id, known, ready_at)
            for item_id, known, (ready_at,) in zip(item_ids, replies[::2], replies[1::2], strict=True)
        ]

    def _keys(self, item_id: str) -> list[str]:
        return [
            *(_key("revision"), _key("item", item_id), _key("items")),
            *(_key("rows", self._space), _key("spaces"), self._row_key(item_id)),
        ]

    def _arguments(self, item_id: str, row: ItemRow) -> list[Any]:
        values, features = self._codec.encode(row)
        return [item_id, self._space, repr(time.time()), self._codec.layout, values, features or b""]

    def _row_key(self, item_id: str) -> str:
        return _key("row", self._space, item_id)


def _key(*parts: str) -> str:
    return _PREFIX + ":".join(parts)


def _item(item_id: str, known: dict[bytes, bytes], ready_at: bytes | None) -> PublishedItem | None:
    if not known or known[b"withdrawn"] == b"1":
        return None
    title, text = json.loads(known[b"text"])
    return PublishedItem(
        item_id,
        Content(title, text, known[b"image"] or None),
        json.loads(known[b"features"]) if b"features" in known else None,
        float(known[b"published_at"]),
        "api" if known[b"origin"] == b"api" else "catalog",
        known[b"digest"].decode(),
        int(known[b"revision"]),
        None if ready_at is None else float(ready_at),
    )
