"""Work done together: queries of a gateway in one call, contents of a replica in one pass, and a watch over both.

Only parsed, bounded data enters a batch, and a caller that gives up never cancels what is in one: a cancelled member
can wedge Serve's batch loop for everybody.
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
from coldstart.serving.scoring import Floats

Ask = TypeVar("Ask")
Answer = TypeVar("Answer")


class Together(Generic[Ask, Answer]):
    """Puts what is asked at the same time on one event loop into one call.

    Nobody waits for company: while no call is under way, one leaves as soon as the loop has read what has arrived.
    While one is, what is asked waits until it is back or `patience_s` is over, and leaves together.

    Args:
        call: Answers asks in order; an answer that is an exception is raised to the one who asked.
        most: Asks in one call.
        patience_s: Longest wait for a call that is under way, while fewer than `flights` are.
        flights: Calls under way at once.
        queue: Asks that may wait; one more is refused.
    """

    def __init__(
        self,
        call: Callable[[list[Ask]], Coroutine[Any, Any, list[Answer | Exception]]],
        *,
        most: int,
        patience_s: float,
        flights: int,
        queue: int,
    ) -> None:
        self.call, self.most, self.patience_s, self.flights, self.queue = call, most, patience_s, flights, queue
        self._waiting: deque[tuple[Ask, asyncio.Future[Answer]]] = deque()
        self._flying: set[asyncio.Task[None]] = set()
        self._due: asyncio.Handle | None = None
        self._boarding = False
        """Whether what is due is due at once."""

    async def ask(self, one: Ask) -> Answer:
        """The answer to one ask. Whoever gives up takes nothing from the others.

        Raises:
            BackPressureError: the queue is full.
        """
        if len(self._waiting) >= self.queue:
            raise BackPressureError(num_queued_requests=len(self._waiting), max_queued_requests=self.queue)
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((one, answer))
        self._plan()
        return await answer

    def _plan(self) -> None:
        """Sees to it that what waits leaves in time."""
        if not self._waiting or len(self._flying) >= self.flights:
            return
        loop = asyncio.get_running_loop()
        if not self._flying or len(self._waiting) >= self.most:
            if not self._boarding:
                self._call_off()
                self._boarding, self._due = True, loop.call_soon(self._leave)
        elif self._due is None:
            self._due = loop.call_later(self.patience_s, self._leave)

    def _call_off(self) -> None:
        if self._due is not None:
            self._due.cancel()
        self._boarding, self._due = False, None

    def _leave(self) -> None:
        self._boarding, self._due = False, None
        crew: list[tuple[Ask, asyncio.Future[Answer]]] = []
        while self._waiting and len(crew) < self.most:
            one, answer = self._waiting.popleft()
            if not answer.done():
                crew.append((one, answer))
        if crew:
            flight = asyncio.get_running_loop().create_task(self._fly(crew))
            self._flying.add(flight)
            flight.add_done_callback(self._landed)
        self._plan()

    async def _fly(self, crew: list[tuple[Ask, asyncio.Future[Answer]]]) -> None:
        try:
            answers: list[Answer | Exception] = await self.call([one for one, _ in crew])
        except Exception as error:
            answers = [error] * len(crew)
        for (_, future), answer in zip(crew, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)

    def _landed(self, flight: "asyncio.Task[None]") -> None:
        self._flying.discard(flight)
        self._plan()


class BatchWatch:
    """Notices a batch loop that stopped turning while callers wait."""

    def __init__(self, patience_s: float) -> None:
        self.patience_s = patience_s
        self._last_batch = time.monotonic()
        self._waiting: dict[object, float] = {}

    async def wait(self, batched: Awaitable[Answer]) -> Answer:
        """Awaits a member of a batch; cancelling the caller leaves the member where it is."""
        ticket = object()
        member = asyncio.ensure_future(batched)
        self._waiting[ticket] = time.monotonic()
        member.add_done_callback(lambda _: self._waiting.pop(ticket, None))
        return await asyncio.shield(member)

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Around the work on one batch."""
        yield
        self._last_batch = time.monotonic()

    def check(self) -> None:
        """Raises when somebody has waited longer than allowed and no batch was finished since."""
        deadline = time.monotonic() - self.patience_s
        if self._last_batch < deadline and any(since < deadline for since in self._waiting.values()):
            raise RuntimeError(f"no batch was finished for {self.patience_s:.0f} s while requests wait")


def sized(answers: list[Answer]) -> list[tuple[Answer, int]]:
    """Answers with the size of their batch: told with the first of them, 0 with the others, so that it counts once."""
    return [(answer, 0 if place else len(answers)) for place, answer in enumerate(answers)]


def tune(batched: Any, settings: Serving) -> None:
    """Gives a method decorated with `serve.batch` the recipe's limits."""
    batched.set_max_batch_size(settings.max_batch)
    batched.set_batch_wait_timeout_s(settings.batch_wait_ms / 1000)


def must_be_finite(what: str, *arrays: Floats) -> None:
    """Refuses to count as ready with a model that answers nonsense."""
    if not all(np.isfinite(array).all() for array in arrays):
        raise RuntimeError(f"the {what} answers the golden request with values that are not finite")
