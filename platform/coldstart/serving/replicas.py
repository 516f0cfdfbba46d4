"""The model deployments: encoder, adaptor, ranker.

Only parsed, bounded data enters a batch, and a caller that gives up never cancels what is in one: a cancelled member
can wedge Serve's batch loop for everybody. Legend: `d` ID width, `D` MLLM width, `G` layer groups.
"""

import asyncio
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from ray import serve

from coldstart.alignment import load_adaptor
from coldstart.config.recipe import Serving
from coldstart.data.content import Content
from coldstart.encoders import Encoder
from coldstart.rankers import load_ranker
from coldstart.serving.scoring import Floats, RankQuery, score

Reading = tuple[Floats, Floats]
"""Coarse proxy [d] and layer states [G, D] of one item."""
GOLDEN_CONTENT = Content(title="golden request", text="scored before a replica counts as ready", picture=None)
Answer = TypeVar("Answer")


def golden_query(width: int) -> RankQuery:
    """A request that any ranker can score: one unknown item seen, one unknown and one proxied candidate."""
    one, zero = np.ones(1, np.int64), np.zeros(2, np.int64)
    return RankQuery(one * 0, one, one * 1_700_000_000, zero, 1_700_000_060, one, np.full((1, width), 0.1, np.float32))


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


class EncoderReplica:
    """Content -> coarse proxy and layer states."""

    def __init__(self, path: Path, settings: Serving) -> None:
        torch.set_num_threads(1)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.encoder = Encoder.load(path, self.device)
        self.watch = BatchWatch(settings.request_timeout_s)
        _tune(self._read, settings)
        _must_be_finite("encoder", *self._forward([GOLDEN_CONTENT])[0])

    async def read(self, content: Content) -> Reading:
        """Reads one item."""
        return await self.watch.wait(self._read(content))

    @serve.batch
    async def _read(self, contents: list[Content]) -> list[Reading]:
        with self.watch.batch():
            return await asyncio.to_thread(self._forward, contents)

    def _forward(self, contents: list[Content]) -> list[Reading]:
        with torch.inference_mode():
            inputs = self.encoder.inputs(self.encoder.prepare(contents), self.device)
            coarse, states = (part.float().cpu().numpy() for part in self.encoder(inputs))
        return list(zip(coarse, states, strict=True))

    def check_health(self) -> None:
        """Called by Serve."""
        self.watch.check()


class AdaptorReplica:
    """Coarse proxy and layer states -> fine proxy."""

    def __init__(self, path: Path, settings: Serving) -> None:
        torch.set_num_threads(1)
        self.adaptor = load_adaptor(path)
        self.watch = BatchWatch(settings.request_timeout_s)
        _tune(self._adapt, settings)

    async def adapt(self, reading: Reading) -> Floats:
        """Adapts one item: `[d]`."""
        return await self.watch.wait(self._adapt(reading))

    @serve.batch
    async def _adapt(self, readings: list[Reading]) -> list[Floats]:
        with self.watch.batch(), torch.inference_mode():
            coarse, states = (torch.from_numpy(np.stack(part)) for part in zip(*readings, strict=True))
            return list(self.adaptor(coarse, states).numpy())

    def check_health(self) -> None:
        """Called by Serve."""
        self.watch.check()


class RankerReplica:
    """Rank queries -> click probabilities."""

    def __init__(self, path: Path, settings: Serving) -> None:
        torch.set_num_threads(1)
        self.ranker = load_ranker(path)
        self.watch = BatchWatch(settings.request_timeout_s)
        _tune(self._rank, settings)
        _must_be_finite("ranker", *self._forward([golden_query(self.ranker.id_table.embedding_dim)]))

    async def rank(self, query: RankQuery) -> Floats:
        """Scores one query: `[T]`."""
        return await self.watch.wait(self._rank(query))

    @serve.batch
    async def _rank(self, queries: list[RankQuery]) -> list[Floats]:
        with self.watch.batch():
            return await asyncio.to_thread(self._forward, queries)

    def _forward(self, queries: list[RankQuery]) -> list[Floats]:
        return score(self.ranker, queries, history=self.ranker.settings.history)

    def check_health(self) -> None:
        """Called by Serve."""
        self.watch.check()


def _tune(batched: Any, settings: Serving) -> None:
    batched.set_max_batch_size(settings.max_batch)
    batched.set_batch_wait_timeout_s(settings.batch_wait_ms / 1000)


def _must_be_finite(what: str, *arrays: Floats) -> None:
    if not all(np.isfinite(array).all() for array in arrays):
        raise RuntimeError(f"the {what} answers the golden request with values that are not finite")
