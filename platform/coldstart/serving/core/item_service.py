"""Operations on items: publish, look up, withdraw, and find neighbors."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from coldstart.data.content import Content
from coldstart.serving.api.errors import LOG, ApiError
from coldstart.serving.api.schemas import (
    ErrorDetail,
    ItemResponse,
    Neighbor,
    NeighborsResponse,
    PublishOutcome,
    PublishRequest,
    WithdrawResponse,
)
from coldstart.serving.core.code_path import CodeLevel, code_path
from coldstart.serving.core.neighbors import SearchMethod, Vectors
from coldstart.serving.core.release_server import ReleaseServer
from coldstart.serving.store.item_store import ItemStore
from coldstart.serving.store.publication_log import ItemRow, PublicationLog, PublishedItem, item_digest
from coldstart.serving.store.row_layout import Row

Entry = tuple[PublishedItem, ItemRow]


class ItemService:
    """The items of one gateway.

    Args:
        servers: The served releases; the first one answers, the others only store rows of the same items.
        neighbor_column: Column of the first release's rows by which similar items are found.
        code_column: Column of these rows with semantic IDs, or None.
    """

    def __init__(self, servers: Sequence[ReleaseServer], neighbor_column: str, code_column: str | None = None) -> None:
        self.servers, self.neighbor_column, self.code_column = servers, neighbor_column, code_column
        self._group_commit = _GroupCommit(servers[0].store.publication_log)

    async def publish(self, requests: Sequence[PublishRequest]) -> list[PublishOutcome | ApiError]:
        """Encodes contents and stores them with their rows; acknowledged items survive a crash.

        Returns:
            Per request, its outcome or error; requests do not affect each other.
        """
        began = time.perf_counter()
        items = [_item(request) for request in requests]
        encoded = await asyncio.gather(*(self._encode(item) for item in items), return_exceptions=True)
        for rows in encoded:
            if isinstance(rows, BaseException) and not isinstance(rows, ApiError):
                raise rows
        entries = [
            (item, rows) for item, rows in zip(items, encoded, strict=True) if not isinstance(rows, BaseException)
        ]
        try:
            revisions = await self._group_commit.add([(item, rows[0]) for item, rows in entries])
        except Exception as error:
            LOG.error("%s items could not be stored", len(entries), exc_info=error)
            raise ApiError(503, "store", "the items could not be stored; try again", retry_after=1) from error
        self.servers[0].stats.record_publish(time.perf_counter() - began, len(entries))
        for position, server in enumerate(self.servers[1:], start=1):
            current = [
                (replace(item, revision=revision), rows[position])
                for (item, rows), revision in zip(entries, revisions, strict=True)
                if len(rows) > position
            ]
            await asyncio.to_thread(server.store.publication_log.update_rows, current)
        return [
            rows
            if isinstance(rows, ApiError)
            else PublishOutcome(item_id=item.item_id, proxy_norm=self._norm(rows[0].values))
            for item, rows in zip(items, encoded, strict=True)
            if not isinstance(rows, BaseException) or isinstance(rows, ApiError)
        ]

    async def find(self, item_id: str) -> ItemResponse:
        """Looks an item up.

        Raises:
            ApiError: 404, the item is unknown.
        """
        index = self._catalog_index(item_id)
        item = await asyncio.to_thread(self._store.publication_log.find, item_id)
        if item is None and not index:
            raise _unknown(item_id)
        row, catalog = self._store.row(item_id, index), self.servers[0].catalog
        return ItemResponse(
            item_id=item_id,
            slot_source=catalog.slot_sources(catalog.find([item_id], []))[0],
            proxy_norm=None if row is None else self._norm(row),
            semantic_id=None if row is None or self.code_column is None else row[self.code_column].tolist(),
            in_catalog=bool(index),
            origin=None if item is None else item.origin,
            published_at=None if item is None else item.published_at,
            rankable_at=None if item is None else item.ready_at,
            title=None if item is None else item.content.title,
            features=None if item is None or item.features is None else dict(item.features),
            release=self._release,
        )

    async def withdraw(self, item_id: str) -> WithdrawResponse:
        """Withdraws an item: until it is published again, it is ranked as unknown and is no neighbor.

        Raises:
            ApiError: 404, the item is unknown.
        """
        index = self._catalog_index(item_id)
        if not index and await asyncio.to_thread(self._store.publication_log.find, item_id) is None:
            raise _unknown(item_id)
        await asyncio.to_thread(self._store.publication_log.withdraw, item_id)
        return WithdrawResponse(item_id=item_id, release=self._release)

    async def neighbors(self, item_id: str, k: int) -> NeighborsResponse:
        """The items nearest to an item.

        Raises:
            ApiError: 404, the item is unknown or has no proxy.
        """
        index = self._catalog_index(item_id)
        row = self._store.row(item_id, index)
        if row is None:
            raise ApiError(404, "not_found", f"item {item_id!r} has no proxy; publish it with POST /v1/items")
        found, search = await self.nearest(row, k, exclude=item_id)
        return NeighborsResponse(item_id=item_id, neighbors=found, search=search, release=self._release)

    async def nearest(self, row: Row, k: int, *, exclude: str | None = None) -> tuple[list[Neighbor], SearchMethod]:
        """The `k` items nearest to an item's row, without `exclude`, and the search method."""
        is_withdrawn = self._store.is_withdrawn
        found, search = await asyncio.to_thread(
            self._store.neighbors.nearest,
            self._vector(row),
            k,
            lambda name: name == exclude or is_withdrawn(name),
        )
        return [Neighbor(item_id=item_id, cosine=cosine) for item_id, cosine in found], search

    async def code_path(self, row: Row, k: int) -> list[CodeLevel]:
        """What shares the first codes of an item's row, with the `k` nearest per level; empty without codes."""
        if self.code_column is None:
            return []
        columns = self.code_column, self.neighbor_column
        rows, codes = self._store.catalog_rows, row[self.code_column]
        return await asyncio.to_thread(code_path, rows, *columns, codes, self._vector(row), k=k)

    def _vector(self, row: Row) -> Vectors:
        return np.asarray(row[self.neighbor_column], np.float32).ravel()

    def _norm(self, row: Row) -> float:
        return float(np.linalg.norm(self._vector(row)))

    @property
    def _store(self) -> ItemStore:
        return self.servers[0].store

    @property
    def _release(self) -> str:
        return self.servers[0].release.release

    def _catalog_index(self, item_id: str) -> int:
        """Index of an item in the catalog, 0 if it is not in it.

        Raises:
            ApiError: 404, it was withdrawn.
        """
        self._store.catch_up()
        if self._store.is_withdrawn(item_id):
            raise _unknown(item_id)
        return self.servers[0].catalog.index.get(item_id, 0)

    async def _encode(self, item: PublishedItem) -> list[ItemRow]:
        """Rows of an item for each release; only the first must succeed, the others can be made later."""
        first, *others = await asyncio.gather(
            *(server.encode_item(item.content, item.features) for server in self.servers), return_exceptions=True
        )
        if isinstance(first, BaseException):
            raise first
        rows = [first]
        for row in others:
            if isinstance(row, BaseException):
                break
            rows.append(row)
        return rows


class _GroupCommit:
    """Group commit: publications that arrive during a write are written together, at the cost of one commit."""

    def __init__(self, publication_log: PublicationLog) -> None:
        self.publication_log = publication_log
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
            batch, self._waiting = self._waiting, []
            try:
                combined = [entry for entries, _ in batch for entry in entries]
                revisions = iter(await asyncio.to_thread(self.publication_log.publish, combined))
                for entries, stored in batch:
                    stored.set_result([next(revisions) for _ in entries])
            except Exception as error:
                for _, stored in batch:
                    if not stored.done():
                        stored.set_exception(error)
        self._writing = None


def _item(request: PublishRequest) -> PublishedItem:
    content = Content(title=request.title, text=request.text, image=request.image or None)
    return PublishedItem(
        request.item_id, content, request.features, time.time(), "api", item_digest(content, request.features)
    )


def failed_outcome(item_id: str | None, error: ApiError) -> PublishOutcome:
    """The outcome of a refused item of several."""
    return PublishOutcome(item_id=item_id, error=ErrorDetail(code=error.code, message=error.message))


def _unknown(item_id: str) -> ApiError:
    return ApiError(404, "not_found", f"there is no item {item_id!r}")
