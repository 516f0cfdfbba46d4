"""Calls the models of one release: batching, deadlines and retries."""

import asyncio
import time
from collections.abc import Awaitable
from typing import Any, TypeVar

from ray.exceptions import RayActorError
from ray.serve.handle import DeploymentHandle

from coldstart.config.recipe import Serving
from coldstart.data.content import Content
from coldstart.serving.core.batching import MicroBatcher
from coldstart.serving.core.local_handle import LocalHandle
from coldstart.serving.core.scoring import Floats, RankQuery
from coldstart.serving.monitoring.stats_collector import StatsCollector
from coldstart.serving.monitoring.stats_schemas import Model
from coldstart.serving.store.row_layout import Row

_RETRY_PAUSE_S = 0.05
"""Pause before a retry after a replica died; Serve needs about as long to stop routing to it."""
Result = TypeVar("Result")


class ModelHandles:
    """Encoder, adaptor and scorer of one release.

    A remote call costs more than a tiny forward pass, so rank queries that wait at the same time share one call and
    one forward pass. If a replica dies, the call is retried; calls change no state.

    Args:
        encoder: Handle of the encoder deployment.
        adaptor: Handle of the adaptor deployment.
        scorer: Handle of the scorer deployment, or of a scorer in this process.
        settings: `serving` of the recipe.
        stats: Collects queue lengths, batch sizes and latencies.
    """

    def __init__(
        self,
        encoder: DeploymentHandle[Any],
        adaptor: DeploymentHandle[Any],
        scorer: DeploymentHandle[Any] | LocalHandle,
        settings: Serving,
        stats: StatsCollector,
    ) -> None:
        self.encoder, self.adaptor, self.scorer = encoder, adaptor, scorer
        self._stats = stats
        self._deadline_s = settings.request_timeout_s
        self._batcher = MicroBatcher(
            self._rank,
            max_batch_size=settings.max_batch,
            max_wait_s=settings.batch_wait_ms / 1000,
            max_inflight=settings.max_inflight_calls,
            max_queue=settings.max_queue,
        )

    async def rank(self, query: RankQuery) -> Floats:
        """Click probabilities `[T]` of a query's candidates.

        Raises:
            TimeoutError: no answer within `serving.request_timeout_s`.
            BackPressureError: the queue is full.
        """
        with self._stats.queues["scorer"]:
            async with asyncio.timeout(self._deadline_s):
                return await self._batcher.submit(query)

    async def row(self, content: Content) -> Row:
        """The scorer's row of an item's content.

        Raises:
            TimeoutError: no answer within `serving.request_timeout_s`.
            BackPressureError: the queue is full.
        """
        async with asyncio.timeout(self._deadline_s):
            encoded: Row = await self._call("encoder", "encode", self.encoder.encode, content)
            row: Row = await self._call("adaptor", "adapt", self.adaptor.adapt, encoded)
            return row

    async def _call(self, model: Model, stage: str, method: Any, argument: Any) -> Any:
        sent = time.perf_counter()
        with self._stats.queues[model]:
            result, size = await self._call_with_retry(method, argument)
        self._stats.record_stage(stage, time.perf_counter() - sent)
        if size:
            self._stats.record_batch(model, size)
        return result

    async def _rank(self, queries: list[RankQuery]) -> list[Floats | Exception]:
        self._stats.record_batch("scorer", len(queries))
        # A call that never returns must not occupy a slot forever.
        async with asyncio.timeout(self._deadline_s):
            results: list[Floats | Exception] = await self._call_with_retry(self.scorer.rank, queries)
            return results

    async def _call_with_retry(self, method: Any, argument: Any) -> Any:
        """Calls a deployment until a replica answers; the caller's deadline ends the retries."""
        while True:
            try:
                return await _await(method.remote(argument))
            except RayActorError:
                await asyncio.sleep(_RETRY_PAUSE_S)


async def _await(work: Awaitable[Result]) -> Result:
    return await work
