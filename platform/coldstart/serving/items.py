"""What can be done with items: publishing, looking up, withdrawing, and finding what stands near them."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from coldstart.data.content import Content
from coldstart.serving.arm import Arm
from coldstart.serving.errors import LOG, ApiError
from coldstart.serving.neighbours import Search
from coldstart.serving.proxy_store import ProxyStore, Vectors
from coldstart.serving.publications import Item, Proxy, Publications, digest_of
from coldstart.serving.schemas import (
    ItemAnswer,
    Neighbour,
    NeighboursAnswer,
    Problem,
    PublishOutcome,
    PublishRequest,
    WithdrawAnswer,
)

Entry = tuple[Item, Proxy]


class Items:
    """The items of one gateway.

    Args:
        arms: Releases that are served; the first answers, the others are kept ready for the same items.
    """

    def __init__(self, arms: Sequence[Arm]) -> None:
        self.arms = arms
        self._commits = _Commits(arms[0].store.publications)

    async def publish(self, requests: Sequence[PublishRequest]) -> list[PublishOutcome | ApiError]:
        """Reads contents and stores them with their proxies; what it answers for survives a crash.

        Returns:
            Per request, its outcome, or why it was refused; none holds up another.
        """
        began = time.perf_counter()
        items = [_item(request) for request in requests]
        read = await asyncio.gather(*(self._read(item) for item in items), return_exceptions=True)
        for one in read:
            if isinstance(one, BaseException) and not isinstance(one, ApiError):
                raise one
        entries = [(item, one) for item, one in zip(items, read, strict=True) if not isinstance(one, BaseException)]
        try:
            revisions = await self._commits.add([(item, proxies[0]) for item, proxies in entries])
        except Exception as error:
            LOG.error("%s items could not be stored", len(entries), exc_info=error)
            raise ApiError(503, "store", "the items could not be stored; try again", retry_after=1) from error
        self.arms[0].watch.published(time.perf_counter() - began, len(entries))
        for place, arm in enumerate(self.arms[1:], start=1):
            renewed = [
                (replace(item, revision=revision), proxies[place])
                for (item, proxies), revision in zip(entries, revisions, strict=True)
                if len(proxies) > place
            ]
            await asyncio.to_thread(arm.store.publications.renew, renewed)
        return [
            one
            if isinstance(one, ApiError)
            else PublishOutcome(item_id=item.item_id, proxy_norm=float(np.linalg.norm(one[0].vector)))
            for item, one in zip(items, read, strict=True)
            if not isinstance(one, BaseException) or isinstance(one, ApiError)
        ]

    async def find(self, item_id: str) -> ItemAnswer:
        """What is known of an item.

        Raises:
            ApiError: 404, nothing is.
        """
        index = self._known(item_id)
        item = await asyncio.to_thread(self._store.publications.find, item_id)
        if item is None and not index:
            raise _unknown(item_id)
        proxy = self._store.proxy(item_id, index)
        return ItemAnswer(
            item_id=item_id,
            vector=self.arms[0].catalogue.choose([item_id]).vectors[0],
            proxy_norm=None if proxy is None else float(np.linalg.norm(proxy)),
            in_catalogue=bool(index),
            origin=None if item is None else item.origin,
            published_at=None if item is None else item.published_at,
            rankable_at=None if item is None else item.ready_at,
            title=None if item is None else item.content.title,
            features=None if item is None or item.features is None else dict(item.features),
            release=self._release,
        )

    async def withdraw(self, item_id: str) -> WithdrawAnswer:
        """Takes an item out: it is ranked as an unknown one and is nobody's neighbour, until it is published again.

        Raises:
            ApiError: 404, it is unknown.
        """
        index = self._known(item_id)
        if not index and await asyncio.to_thread(self._store.publications.find, item_id) is None:
            raise _unknown(item_id)
        await asyncio.to_thread(self._store.publications.withdraw, item_id)
        return WithdrawAnswer(item_id=item_id, release=self._release)

    async def neighbours(self, item_id: str, k: int) -> NeighboursAnswer:
        """The mature items nearest to an item's proxy.

        Raises:
            ApiError: 404, the item is unknown or has no proxy.
        """
        index = self._known(item_id)
        proxy = self._store.proxy(item_id, index)
        if proxy is None:
            raise ApiError(404, "not_found", f"there is no proxy of item {item_id!r}; publish it with POST /v1/items")
        found, search = await self.nearest(proxy, k, but=item_id)
        return NeighboursAnswer(item_id=item_id, neighbours=found, search=search, release=self._release)

    async def nearest(self, vector: Vectors, k: int, *, but: str | None = None) -> tuple[list[Neighbour], Search]:
        """The `k` mature items nearest to a vector `[d]`, save one, and how they were searched."""
        gone = self._store.withdrawn
        mature = self._store.mature
        found, search = await asyncio.to_thread(mature.nearest, vector, k, lambda name: name == but or gone(name))
        return [Neighbour(item_id=item_id, cosine=cosine) for item_id, cosine in found], search

    @property
    def _store(self) -> ProxyStore:
        return self.arms[0].store

    @property
    def _release(self) -> str:
        return self.arms[0].release.release

    def _known(self, item_id: str) -> int:
        """Index of an item in the catalogue, 0 if it has none.

        Raises:
            ApiError: 404, it was withdrawn.
        """
        self._store.catch_up()
        if self._store.withdrawn(item_id):
            raise _unknown(item_id)
        return self.arms[0].catalogue.index.get(item_id, 0)

    async def _read(self, item: Item) -> list[Proxy]:
        """Its proxies in the space of each release; only the first must succeed, the others can be made later."""
        first, *others = await asyncio.gather(
            *(arm.read(item.content, item.features) for arm in self.arms), return_exceptions=True
        )
        if isinstance(first, BaseException):
            raise first
        kept = [first]
        for proxy in others:
            if isinstance(proxy, BaseException):
                break
            kept.append(proxy)
        return kept


class _Commits:
    """Publications that wait while another is written go to disk together: a commit costs the same for many."""

    def __init__(self, publications: Publications) -> None:
        self.publications = publications
        self._waiting: list[tuple[list[Entry], asyncio.Future[list[int]]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def add(self, entries: list[Entry]) -> list[int]:
        """Stores entries and returns their revisions."""
        if not entries:
            return []
        stored: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self._waiting.append((entries, stored))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())
        return await asyncio.shield(stored)

    async def _write(self) -> None:
        while self._waiting:
            together, self._waiting = self._waiting, []
            try:
                every = [entry for entries, _ in together for entry in entries]
                revisions = iter(await asyncio.to_thread(self.publications.publish, every))
                for entries, stored in together:
                    stored.set_result([next(revisions) for _ in entries])
            except Exception as error:
                for _, stored in together:
                    if not stored.done():
                        stored.set_exception(error)
        self._writing = None


def _item(request: PublishRequest) -> Item:
    content = Content(title=request.title, text=request.text, picture=request.picture or None)
    return Item(request.item_id, content, request.features, time.time(), "api", digest_of(content, request.features))


def outcome(item_id: str | None, error: ApiError) -> PublishOutcome:
    """Why one item of several was refused."""
    return PublishOutcome(item_id=item_id, error=Problem(code=error.code, message=error.message))


def _unknown(item_id: str) -> ApiError:
    return ApiError(404, "not_found", f"there is no item {item_id!r}")
