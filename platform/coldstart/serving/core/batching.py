"""Batching: a gateway's rank queries in one call, a replica's contents in one forward pass, and stall detection.

Only parsed, bounded data enters a batch, and a caller that gives up never cancels its item in a batch: a cancelled item
can block Serve's batch loop for all callers.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import numpy as np
from ray.serve.exceptions import BackPressureError

from coldstart.config.recipe import Serving
from coldstart.serving.core.scoring import Floats

Query = TypeVar("Query")
Result = TypeVar("Result")


class MicroBatcher(Generic[Query, Result]):
    """Groups queries that are submitted at the same time on one event loop into one call.

    If no call is in flight, a batch is sent as soon as the loop has read what has arrived. While a call is in flight,
    queries wait until it returns or `max_wait_s` is over, and are sent together.

    Args:
        call: Takes queries and returns their results in order; a result that is an exception is raised to its caller.
        max_batch_size: Most queries in one call.
        max_wait_s: Longest wait for a call in flight, while fewer than `max_inflight` are.
        max_inflight: Most calls in flight at once.
        max_queue: Most queries that may wait; one more is refused.
    """

    def __init__(
        self,
        call: Callable[[list[Query]], Coroutine[Any, Any, list[Result | Exception]]],
        *,
        max_batch_size: int,
        max_wait_s: float,
        max_inflight: int,
        max_queue: int,
    ) -> None:
        self.call, self.max_batch_size, self.max_wait_s = call, max_batch_size, max_wait_s
        self.max_inflight, self.max_queue = max_inflight, max_queue
        self._queue: deque[tuple[Query, asyncio.Future[Result]]] = deque()
        self._inflight: set[asyncio.Task[None]] = set()
        self._timer: asyncio.Handle | None = None
        self._sends_next = False
        """Whether `_timer` sends a batch at the next turn of the loop."""

    async def submit(self, query: Query) -> Result:
        """Returns the result of one query. A caller that gives up does not disturb the others.

        Raises:
            BackPressureError: the queue is full.
        """
        if len(self._queue) >= self.max_queue:
            raise BackPressureError(num_queued_requests=len(self._queue), max_queued_requests=self.max_queue)
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._queue.append((query, future))
        self._schedule()
        return await future

    def _schedule(self) -> None:
        """Schedules the next batch, if queries wait and one more call is allowed."""
        if not self._queue or len(self._inflight) >= self.max_inflight:
            return
        loop = asyncio.get_running_loop()
        if not self._inflight or len(self._queue) >= self.max_batch_size:
            if not self._sends_next:
                self._cancel_timer()
                self._sends_next, self._timer = True, loop.call_soon(self._send_batch)
        elif self._timer is None:
            self._timer = loop.call_later(self.max_wait_s, self._send_batch)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._sends_next, self._timer = False, None

    def _send_batch(self) -> None:
        self._sends_next, self._timer = False, None
        batch: list[tuple[Query, asyncio.Future[Result]]] = []
        while self._queue and len(batch) < self.max_batch_size:
            query, future = self._queue.popleft()
            if not future.done():
                batch.append((query, future))
        if batch:
            task = asyncio.get_running_loop().create_task(self._run_batch(batch))
            self._inflight.add(task)
            task.add_done_callback(self._finish)
        self._schedule()

    async def _run_batch(self, batch: list[tuple[Query, asyncio.Future[Result]]]) -> None:
        try:
            results: list[Result | Exception] = await self.call([query for query, _ in batch])
        except Exception as error:
            results = [error] * len(batch)
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

    def _finish(self, task: "asyncio.Task[None]") -> None:
        self._inflight.discard(task)
        self._schedule()


class StallDetector:
    """Detects a batch loop that stopped while callers wait."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._last_batch = time.monotonic()
        self._waiting: dict[object, float] = {}

    async def wait(self, batched: Awaitable[Result]) -> Result:
        """Awaits one item of a batch; cancelling the caller does not cancel the item."""
        ticket = object()
        item = asyncio.ensure_future(batched)
        self._waiting[ticket] = time.monotonic()
        item.add_done_callback(lambda _: self._waiting.pop(ticket, None))
        return await asyncio.shield(item)

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Encloses the work on one batch."""
        yield
        self._last_batch = time.monotonic()

    def check(self) -> None:
        """Raises RuntimeError if a caller has waited longer than `timeout_s` and no batch was finished since."""
        deadline = time.monotonic() - self.timeout_s
        if self._last_batch < deadline and any(since < deadline for since in self._waiting.values()):
            raise RuntimeError(f"no batch was finished for {self.timeout_s:.0f} s while requests wait")


def with_batch_size(results: list[Result]) -> list[tuple[Result, int]]:
    """Pairs the first result with the size of its batch and the others with 0, so that each batch is counted once."""
    return [(result, 0 if position else len(results)) for position, result in enumerate(results)]


def set_batch_limits(batched: Any, settings: Serving) -> None:
    """Sets the recipe's limits on a method decorated with `serve.batch`."""
    batched.set_max_batch_size(settings.max_batch)
    batched.set_batch_wait_timeout_s(settings.batch_wait_ms / 1000)


def check_finite(model: str, *arrays: Floats) -> None:
    """Refuses a model whose results for the golden request are not finite.

    Raises:
        RuntimeError: a value is NaN or infinite.
    """
    if not all(np.isfinite(array).all() for array in arrays):
        raise RuntimeError(f"the {model} answers the golden request with values that are not finite")
