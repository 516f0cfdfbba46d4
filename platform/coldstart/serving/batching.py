"""What the model deployments share: tuned batches, and a watch over the loop that runs them.

Only parsed, bounded data enters a batch, and a caller that gives up never cancels what is in one: a cancelled member
can wedge Serve's batch loop for everybody.
"""

import asyncio
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

from coldstart.config.recipe import Serving
from coldstart.serving.scoring import Floats

Answer = TypeVar("Answer")


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


def tune(batched: Any, settings: Serving) -> None:
    """Gives a method decorated with `serve.batch` the recipe's limits."""
    batched.set_max_batch_size(settings.max_batch)
    batched.set_batch_wait_timeout_s(settings.batch_wait_ms / 1000)


def must_be_finite(what: str, *arrays: Floats) -> None:
    """Refuses to count as ready with a model that answers nonsense."""
    if not all(np.isfinite(array).all() for array in arrays):
        raise RuntimeError(f"the {what} answers the golden request with values that are not finite")
