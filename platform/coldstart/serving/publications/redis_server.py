"""Publications in Redis, for gateways on several machines.

Every write is one script, so it happens wholly or not at all and revisions are visible in their order. What survives a
crash of the server is the server's own setting: it must run with `appendonly yes`. A thread asks for news, so that no
request waits for the network, and ranking goes on with what is known while the server is away.
"""

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import redis

from coldstart.config import UserError
from coldstart.config.recipe import Store
from coldstart.data.content import Content
from coldstart.serving.publications.interface import Change, Item, Origin, Proxy, Publications, Standing

LOG = logging.getLogger("ray.serve")

_ASK_S = 0.05
_RETRY_S = 1.0
_FETCH = 1_000
# One slot of a Redis cluster, since a script touches several keys.
_PREFIX = "{coldstart}:"
_STORE_PROXY = """
redis.call('ZADD', KEYS[4], revision, ARGV[1])
redis.call('SADD', KEYS[5], ARGV[2])
redis.call('HSET', KEYS[6], 'made_from', made_from, 'ready_at', ARGV[3], 'vector', ARGV[4])
if ARGV[5] ~= '' then redis.call('HSET', KEYS[6], 'features', ARGV[5]) end
return revision
"""
_PUBLISH = (
    """
local known = redis.call('HMGET', KEYS[2], 'withdrawn', 'origin', 'published_at')
if ARGV[7] ~= 'api' and known[1] then
    if known[1] == '1' or (known[2] == 'api' and tonumber(known[3]) >= tonumber(ARGV[6])) then return 0 end
end
local revision = redis.call('INCR', KEYS[1])
local made_from = revision
redis.call('HSET', KEYS[2], 'revision', revision, 'withdrawn', 0, 'published_at', ARGV[6], 'origin', ARGV[7],
    'digest', ARGV[8], 'words', ARGV[9], 'picture', ARGV[10])
if ARGV[11] ~= '' then redis.call('HSET', KEYS[2], 'features', ARGV[11]) end
redis.call('ZADD', KEYS[3], revision, ARGV[1])
redis.call('ZREM', KEYS[7], ARGV[1])
"""
    + _STORE_PROXY
)
_RENEW = (
    """
local known = redis.call('HMGET', KEYS[2], 'withdrawn', 'revision')
if known[1] ~= '0' or known[2] ~= ARGV[6] then return 0 end
local revision = redis.call('INCR', KEYS[1])
local made_from = ARGV[6]
"""
    + _STORE_PROXY
)
_WITHDRAW = """
local revision = redis.call('INCR', KEYS[1])
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[2], 'revision', revision, 'withdrawn', 1, 'published_at', ARGV[2], 'origin', 'api',
    'digest', '')
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZADD', KEYS[5], revision, ARGV[1])
for _, space in ipairs(redis.call('SMEMBERS', KEYS[4])) do
    redis.call('ZREM', ARGV[3] .. 'proxies:' .. space, ARGV[1])
    redis.call('DEL', ARGV[3] .. 'proxy:' .. space .. ':' .. ARGV[1])
end
"""


class RedisPublications(Publications):
    """Publications on a Redis server.

    Args:
        settings: The recipe's section.
        space: Fingerprint of the adaptor whose proxies are meant.

    Raises:
        UserError: the server does not answer, or would forget everything at a restart.
    """

    def __init__(self, settings: Store, space: str) -> None:
        password = settings.redis_password_file and settings.redis_password_file.read_text().strip()
        self._server = redis.Redis.from_url(
            settings.redis_url, password=password, socket_timeout=10, socket_connect_timeout=5, health_check_interval=30
        )
        try:
            persistent = self._server.info("persistence").get("aof_enabled")
        except redis.RedisError as error:
            raise UserError(
                f"serving.store.redis_url: no Redis answers at {settings.redis_url} ({error}); start one, or set "
                "serving.store.kind: lance"
            ) from error
        if not persistent:
            raise UserError(
                f"the Redis at {settings.redis_url} keeps nothing through a crash, so an acknowledged item could be "
                "lost; start it with `appendonly yes`"
            )
        self._space = space
        self._publish, self._renew, self._withdraw = map(self._server.register_script, (_PUBLISH, _RENEW, _WITHDRAW))
        self._cursor = 0
        self._news: deque[Change] = deque()
        self._follower: threading.Thread | None = None
        self._closed = threading.Event()

    def publish(self, entries: Sequence[tuple[Item, Proxy]]) -> list[int]:
        """See `Publications.publish`."""
        with self._server.pipeline(transaction=True) as together:
            for item, proxy in entries:
                shown, features = item.content, "" if item.features is None else json.dumps(dict(item.features))
                self._publish(
                    [*self._keys(item.item_id), _key("withdrawn")],
                    [
                        *self._arguments(item.item_id, proxy),
                        *(repr(item.published_at), item.origin, item.digest),
                        *(json.dumps([shown.title, shown.text]), shown.picture or b"", features),
                    ],
                    client=together,
                )
            return [int(revision) for revision in together.execute()]

    def renew(self, entries: Sequence[tuple[Item, Proxy]]) -> None:
        """See `Publications.renew`."""
        with self._server.pipeline(transaction=True) as together:
            for item, proxy in entries:
                arguments = [*self._arguments(item.item_id, proxy), item.revision]
                self._renew(self._keys(item.item_id), arguments, client=together)
            together.execute()

    def withdraw(self, item_id: str) -> None:
        """See `Publications.withdraw`."""
        keys = [_key("revision"), _key("item", item_id), _key("items"), _key("spaces"), _key("withdrawn")]
        self._withdraw(keys, [item_id, repr(time.time()), _PREFIX])

    def find(self, item_id: str) -> Item | None:
        """See `Publications.find`."""
        return self._items([item_id])[0]

    def unread(self, after: int, most: int) -> list[Item]:
        """See `Publications.unread`."""
        found: list[Item] = []
        while len(found) < most:
            page = self._server.zrange(
                _key("items"), f"({after}", "+inf", byscore=True, offset=0, num=_FETCH, withscores=True
            )
            if not page:
                break
            after = int(page[-1][1])
            with self._server.pipeline(transaction=False) as together:
                for name, _ in page:
                    together.hget(self._proxy_key(name.decode()), "made_from")
                made = together.execute()
            late = [
                name.decode() for (name, of), at in zip(page, made, strict=True) if at is None or int(at) != int(of)
            ]
            found += [item for item in self._items(late[: most - len(found)]) if item is not None]
        return found

    def standing(self) -> dict[str, Standing]:
        """See `Publications.standing`."""
        found: dict[str, Standing] = {}
        named = (name.decode() for key in ("items", "withdrawn") for name, _ in self._server.zscan_iter(_key(key)))
        while item_ids := list(islice(named, _FETCH)):
            with self._server.pipeline(transaction=False) as together:
                for item_id in item_ids:
                    together.hmget(_key("item", item_id), "digest", "origin", "published_at", "revision", "withdrawn")
                    together.hget(self._proxy_key(item_id), "made_from")
                told = together.execute()
            for item_id, known, made_from in zip(item_ids, told[::2], told[1::2], strict=True):
                digest, origin, at, revision, withdrawn = known
                kind: Origin = "api" if origin == b"api" else "catalogue"
                found[item_id] = Standing(digest.decode(), kind, float(at), made_from == revision, withdrawn == b"1")
        return found

    def changes(self, since: int, most: int) -> list[Change]:
        """See `Publications.changes`; once `stirred` was asked, what the follower has heard."""
        if self._follower is None:
            found = self._fetch(since, most)
            self._cursor = max([since, *(change.revision for change in found)])
            return found
        heard = [self._news.popleft() for _ in range(min(most, len(self._news)))]
        return [change for change in heard if change.revision > since]

    def stirred(self) -> bool:
        """See `Publications.stirred`."""
        if self._follower is None:
            self._follower = threading.Thread(target=self._follow, daemon=True, name="redis-news")
            self._follower.start()
        return bool(self._news)

    def mark(self, key: str) -> str | None:
        """See `Publications.mark`."""
        value = self._server.hget(_key("marks", self._space), key)
        return None if value is None else str(value.decode())

    def set_mark(self, key: str, value: str) -> None:
        """See `Publications.set_mark`."""
        self._server.hset(_key("marks", self._space), key, value)

    def close(self) -> None:
        """See `Publications.close`."""
        self._closed.set()
        if self._follower is not None:
            self._follower.join()
        self._server.close()

    def _follow(self) -> None:
        heard = 0
        while not self._closed.wait(_ASK_S):
            try:
                latest = int(self._server.get(_key("revision")) or 0)
                while heard < latest:
                    found = self._fetch(self._cursor, _FETCH)
                    self._news.extend(found)
                    self._cursor = max([self._cursor, *(change.revision for change in found)])
                    heard = self._cursor if len(found) == _FETCH else latest
            except redis.RedisError as error:
                LOG.warning("Redis does not answer, ranking goes on with the items known so far: %s", error)
                self._closed.wait(_RETRY_S)

    def _fetch(self, since: int, most: int) -> list[Change]:
        keys = (_key("proxies", self._space), _key("withdrawn"))
        # Both at one moment, or a publication between two looks would be passed over.
        with self._server.pipeline(transaction=True) as together:
            for key in keys:
                together.zrange(key, f"({since}", "+inf", byscore=True, offset=0, num=most, withscores=True)
            made, gone = together.execute()
        names = sorted((int(at), name.decode(), page is made) for page in (made, gone) for name, at in page)[:most]
        with self._server.pipeline(transaction=False) as together:
            for _, item_id, there in names:
                if there:
                    together.hmget(self._proxy_key(item_id), "vector", "features", "ready_at")
            told = iter(together.execute())
        rows = [(revision, item_id, next(told) if there else None) for revision, item_id, there in names]
        # A proxy that is gone by now was withdrawn meanwhile.
        return [
            Change(revision, name, None, None)
            if row is None or row[0] is None
            else Change(revision, name, _proxy(*row[:2]), float(row[2]))
            for revision, name, row in rows
        ]

    def _items(self, item_ids: Sequence[str]) -> list[Item | None]:
        with self._server.pipeline(transaction=False) as together:
            for item_id in item_ids:
                together.hgetall(_key("item", item_id))
                together.hmget(self._proxy_key(item_id), "ready_at")
            told = together.execute()
        return [
            _item(item_id, known, ready_at)
            for item_id, known, (ready_at,) in zip(item_ids, told[::2], told[1::2], strict=True)
        ]

    def _keys(self, item_id: str) -> list[str]:
        return [
            *(_key("revision"), _key("item", item_id), _key("items")),
            *(_key("proxies", self._space), _key("spaces"), self._proxy_key(item_id)),
        ]

    def _arguments(self, item_id: str, proxy: Proxy) -> list[Any]:
        vector = np.ascontiguousarray(proxy.vector, "<f4").tobytes()
        features = b"" if proxy.features is None else np.ascontiguousarray(proxy.features, "<f8").tobytes()
        return [item_id, self._space, repr(time.time()), vector, features]

    def _proxy_key(self, item_id: str) -> str:
        return _key("proxy", self._space, item_id)


def _key(*parts: str) -> str:
    return _PREFIX + ":".join(parts)


def _proxy(vector: bytes, features: bytes | None) -> Proxy:
    return Proxy(np.frombuffer(vector, "<f4"), None if features is None else np.frombuffer(features, "<f8"))


def _item(item_id: str, known: dict[bytes, bytes], ready_at: bytes | None) -> Item | None:
    if not known or known[b"withdrawn"] == b"1":
        return None
    title, text = json.loads(known[b"words"])
    return Item(
        item_id,
        Content(title, text, known[b"picture"] or None),
        json.loads(known[b"features"]) if b"features" in known else None,
        float(known[b"published_at"]),
        "api" if known[b"origin"] == b"api" else "catalogue",
        known[b"digest"].decode(),
        int(known[b"revision"]),
        None if ready_at is None else float(ready_at),
    )
