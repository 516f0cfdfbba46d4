"""The models of one release, as a gateway calls them."""

import asyncio
import time
from collections.abc import Awaitable
from typing import Any, TypeVar

from ray.exceptions import RayActorError
from ray.serve.handle import DeploymentHandle

from coldstart.config.recipe import Serving
from coldstart.data.content import Content
from coldstart.serving.batching import Together
from coldstart.serving.proxy_store import Vectors
from coldstart.serving.ranker_replica import RankerReplica
from coldstart.serving.scoring import Floats, RankQuery, Reading
from coldstart.serving.watch import Watch
from coldstart.serving.watch_answers import Model

_PAUSE_S = 0.05
"""Before a call is made again whose replica died: Serve needs about as long to stop sending there."""
Answer = TypeVar("Answer")


class Within:
    """A ranker in this process, called as if it were a deployment."""

    def __init__(self, ranker: RankerReplica) -> None:
        self.ranker, self.rank = ranker, self

    async def remote(self, queries: list[RankQuery]) -> list[Floats | Exception]:
        """Scores queries."""
        return await self.ranker.rank(queries)


class Models:
    """Encoder, adaptor and ranker of one release.

    A call of a deployment costs more than a tiny forward pass, so rank queries that wait at the same time travel in
    one call and are scored in one pass. A call whose replica dies is made again: nothing here changes any state.

    Args:
        encoder: Handle of the encoder deployment.
        adaptor: Handle of the adaptor deployment.
        ranker: Handle of the ranker deployment, or the ranker itself.
        settings: The recipe's section.
        watch: Told of queues, batches and how long contents take.
    """

    def __init__(
        self,
        encoder: DeploymentHandle[Any],
        adaptor: DeploymentHandle[Any],
        ranker: DeploymentHandle[Any] | Within,
        settings: Serving,
        watch: Watch,
    ) -> None:
        self.encoder, self.adaptor, self.ranker = encoder, adaptor, ranker
        self._watch = watch
        self._deadline_s = settings.request_timeout_s
        self._queries = Together(
            self._rank,
            most=settings.max_batch,
            patience_s=settings.batch_wait_ms / 1000,
            flights=settings.ranker_calls,
            queue=settings.max_waiting,
        )

    async def rank(self, query: RankQuery) -> Floats:
        """Click probabilities `[T]` of a query's candidates.

        Raises:
            TimeoutError: no answer within the recipe's time for a request.
            BackPressureError: too many wait already.
        """
        with self._watch.queues["ranker"]:
            async with asyncio.timeout(self._deadline_s):
                return await self._queries.ask(query)

    async def proxy(self, content: Content) -> Vectors:
        """Fine proxy `[d]` of a content.

        Raises:
            TimeoutError: no answer within the recipe's time for a request.
            BackPressureError: too many wait already.
        """
        async with asyncio.timeout(self._deadline_s):
            reading: Reading = await self._one("encoder", "encode", self.encoder.read, content)
            vector: Vectors = await self._one("adaptor", "adapt", self.adaptor.adapt, reading)
            return vector

    async def _one(self, model: Model, stage: str, method: Any, argument: Any) -> Any:
        sent = time.perf_counter()
        with self._watch.queues[model]:
            answer, size = await self._again(method, argument)
        self._watch.stage(stage, time.perf_counter() - sent)
        if size:
            self._watch.batch(model, size)
        return answer

    async def _rank(self, queries: list[RankQuery]) -> list[Floats | Exception]:
        self._watch.batch("ranker", len(queries))
        # A call that never comes back must not keep its place for ever.
        async with asyncio.timeout(self._deadline_s):
            answers: list[Floats | Exception] = await self._again(self.ranker.rank, queries)
            return answers

    async def _again(self, method: Any, argument: Any) -> Any:
        """Calls a deployment until a replica lives long enough to answer; the caller's deadline ends it."""
        while True:
            try:
                return await _await(method.remote(argument))
            except RayActorError:
                await asyncio.sleep(_PAUSE_S)


async def _await(work: Awaitable[Answer]) -> Answer:
    return await work
