"""The client for programs with an event loop."""

import asyncio
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Self

import httpx

from coldstart.client import operations
from coldstart.client.base import BaseClient
from coldstart.client.connection import HttpResponse, proxy_options
from coldstart.client.operations import Call
from coldstart.client.retries import CallAttempts, ResponseT
from coldstart.serving.api import schemas
from coldstart.serving.monitoring import stats_schemas

if TYPE_CHECKING:
    import pyarrow as pa


class AsyncClient(BaseClient[httpx.AsyncClient, httpx.AsyncBaseTransport]):
    """Calls a server; the tasks of one event loop may share one client. For the arguments see `BaseClient`."""

    async def rank(self, request: schemas.RankRequest, *, deadline_s: float | None = None) -> schemas.RankResponse:
        """Scores candidates for a user."""
        return await self._call(operations.rank(request), deadline_s)

    async def rank_many(
        self, request: schemas.RankBatchRequest, *, deadline_s: float | None = None
    ) -> schemas.RankBatchResponse:
        """Scores candidates for several users in one request."""
        return await self._call(operations.rank_many(request), deadline_s)

    async def rank_arrow(self, users: "pa.RecordBatch", *, deadline_s: float | None = None) -> "pa.RecordBatch":
        """Scores candidates for several users, one row each, as Arrow; a fifth of the CPU time for many users."""
        return await self._call(operations.rank_arrow(users), deadline_s)

    async def publish(
        self, request: schemas.PublishRequest, *, deadline_s: float | None = None
    ) -> schemas.PublishResponse:
        """Publishes an item, or replaces its content; afterwards it can be ranked, and survives a crash."""
        return await self._call(operations.publish(request), deadline_s)

    async def publish_many(
        self, items: Iterable[schemas.PublishRequest], *, deadline_s: float | None = None
    ) -> schemas.PublishBatchResponse:
        """Publishes items; each succeeds or fails separately, so check `failed`."""
        return await self._call(operations.publish_many(items), deadline_s)

    async def item(self, item_id: str, *, deadline_s: float | None = None) -> schemas.ItemResponse:
        """What is stored about an item, and which vector it is ranked with."""
        return await self._call(operations.item(item_id), deadline_s)

    async def neighbors(
        self, item_id: str, k: int = 10, *, deadline_s: float | None = None
    ) -> schemas.NeighborsResponse:
        """The mature items nearest to an item's proxy."""
        return await self._call(operations.neighbors(item_id, k), deadline_s)

    async def withdraw(self, item_id: str, *, deadline_s: float | None = None) -> schemas.WithdrawResponse:
        """Withdraws an item: it is unknown until it is published again."""
        return await self._call(operations.withdraw(item_id), deadline_s)

    async def release(self, *, deadline_s: float | None = None) -> schemas.ReleaseResponse:
        """The release that is served."""
        return await self._call(operations.release(), deadline_s)

    async def ready(self, *, deadline_s: float | None = None) -> schemas.HealthResponse:
        """Returns when all models respond; waits for a starting server as long as the retries allow."""
        return await self._call(operations.ready(), deadline_s)

    async def feedback(
        self, events: Iterable[schemas.Feedback], *, deadline_s: float | None = None
    ) -> schemas.FeedbackResponse:
        """Reports clicks and non-clicks on ranked items, at most 1,000; a retry does not count twice."""
        return await self._call(operations.feedback(events), deadline_s)

    async def stats(self, *, deadline_s: float | None = None) -> stats_schemas.ServingStats:
        """Serving statistics over all gateways: latency, batches, queues, freshness, drift, calibration."""
        return await self._call(operations.stats(), deadline_s)

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _open(
        self, url: str, auth: httpx.Auth, limits: httpx.Limits, transport: httpx.AsyncBaseTransport | None
    ) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=url, auth=auth, limits=limits, transport=transport, **proxy_options(url))

    async def _call(self, call: Call[ResponseT], deadline_s: float | None) -> ResponseT:
        attempts = self._attempts(call, deadline_s)
        with self._stats.call():
            return attempts.decode(call.decode, await self._send_with_retries(call, attempts))

    async def _send_with_retries(self, call: Call[ResponseT], attempts: CallAttempts) -> HttpResponse:
        while True:
            timeout_s = attempts.start()
            try:
                response = await self._send_once(call, timeout_s)
                pause_s = attempts.on_response(response)
            except (httpx.RequestError, TimeoutError) as error:
                pause_s = attempts.on_transport_error(error)
            else:
                if pause_s is None:
                    return response
            await asyncio.sleep(pause_s)

    async def _send_once(self, call: Call[ResponseT], timeout_s: float) -> HttpResponse:
        # httpx limits the wait for each chunk only; a server that sends a byte per second would never time out.
        async with asyncio.timeout(timeout_s):
            response = await self._http.request(
                call.method, call.path, content=call.body, headers=dict(call.headers), timeout=httpx.Timeout(timeout_s)
            )
        return HttpResponse(response.status_code, response.headers, response.content)
