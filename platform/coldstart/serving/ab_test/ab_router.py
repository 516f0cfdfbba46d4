"""Routes each rank request of a gateway to the champion or, for the users in an A/B test, to the challenger.

A keyed hash of the user id selects the users, so all gateways send a user to the same release. One release answers all
of a request. If the challenger fails or takes too long, the champion scores the request again: a bad challenger costs
its users time, but never an answer. Once a second each gateway checks the test on the statistics of all gateways. A
gateway that aborts the test publishes this through the aggregator; within about a second no gateway calls the
challenger. An aborted test stays aborted until another challenger is deployed, or the same one is removed and deployed
again.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

from coldstart.config.recipe import Serving
from coldstart.serving.ab_test.experiment import Abort, ABTest, TrafficSplit, abort_reason
from coldstart.serving.api.errors import ApiError
from coldstart.serving.api.rank_call import RankCall
from coldstart.serving.api.request_id import RequestContext, current_request
from coldstart.serving.api.schemas import ABTestStatus, RankResponse, ReleaseResponse
from coldstart.serving.core.release_server import ReleaseServer
from coldstart.serving.monitoring.prometheus import set_gauges
from coldstart.serving.monitoring.stats_aggregator import AggregatedStats, AggregatorClient, SharedValues
from coldstart.serving.monitoring.stats_collector import RankRecord, ShadowRecord, StatsCollector, VariantName
from coldstart.serving.monitoring.stats_schemas import ServingStats
from coldstart.serving.monitoring.stats_summary import summarize_stats

LOG = logging.getLogger("ray.serve")
_SYNC_INTERVAL_S = 1.0
_MAX_SHADOWS = 32
"""Most shadow requests of one gateway in flight; further requests are not sent to the challenger."""


class _Request(NamedTuple):
    call: RankCall
    context: RequestContext


class ABRouter:
    """Chooses a release for each request of one gateway, and ends an A/B test whose challenger does badly.

    Args:
        champion: Serves all users who are not in the A/B test.
        challenger: Serves the users in the A/B test.
        ab_test: `None` without a challenger.
        settings: The recipe's `serving` section.
        stats: Records every request.
        aggregator: Exchanges statistics with the other gateways.
    """

    def __init__(
        self,
        champion: ReleaseServer,
        challenger: ReleaseServer | None,
        ab_test: ABTest | None,
        settings: Serving,
        stats: StatsCollector,
        aggregator: AggregatorClient,
    ) -> None:
        self.champion, self.challenger, self.ab_test, self.stats = champion, challenger, ab_test, stats
        self._limits, self._reference_window_s, self._aggregator = (
            settings.challenger,
            settings.stats.reference_window_s,
            aggregator,
        )
        self._split = TrafficSplit(ab_test.challenger, self._limits) if ab_test else None
        self._shared: SharedValues = {}
        self._aggregated = AggregatedStats({}, 1, {}, [], ("", 0))
        self._shadows: set[asyncio.Task[None]] = set()

    @property
    def abort(self) -> Abort | None:
        """Why and when the A/B test was aborted; `None` while it runs."""
        return self._shared.get(f"abort|{self.ab_test.id}") if self.ab_test else None

    @property
    def release(self) -> ReleaseResponse:
        """The champion and the state of the challenger."""
        if self.challenger is None:
            return self.champion.release
        abort, other = self.abort, self.challenger.release
        status = ABTestStatus(
            release=other.release,
            versions=other.versions,
            state="aborted" if abort else "shadow" if self._limits.shadow else "answering",
            traffic_fraction=self._limits.traffic_fraction,
            reason=abort.reason if abort else None,
            aborted_at=abort.at if abort else None,
        )
        return self.champion.release.model_copy(update={"challenger": status})

    async def rank(self, call: RankCall) -> RankResponse:
        """Scores the candidates of one user with one release."""
        request = _Request(call, current_request())
        self.stats.record_stage("parse", time.perf_counter() - request.context.arrived)
        self.stats.in_flight += 1
        split, user = self._split, call.user_id
        try:
            selected = split is not None and user is not None and self.abort is None and split.to_challenger(user)
            if not selected or self.challenger is None:
                return await self._rank_with_champion(request, in_ab_test=user is not None and not self._limits.shadow)
            if not self._limits.shadow:
                return await self._rank_with_challenger(self.challenger, request)
            answer = await self._rank_with_champion(request, in_ab_test=True)
            self._start_shadow(self.challenger, request, answer)
            return answer
        finally:
            self.stats.in_flight -= 1

    async def _rank_with_champion(self, request: _Request, *, in_ab_test: bool) -> RankResponse:
        began = time.perf_counter()
        try:
            answer = await self.champion.rank(request.call)
        except Exception as error:
            self._record(self.champion, _outcome(error), time.perf_counter() - began, in_ab_test, request)
            raise
        self._record(self.champion, "ok", time.perf_counter() - began, in_ab_test, request, answer)
        return answer

    async def _rank_with_challenger(self, challenger: ReleaseServer, request: _Request) -> RankResponse:
        """Scores with the challenger; if it fails or is too slow, with the champion."""
        began = time.perf_counter()
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                answer = await challenger.rank(request.call)
        except Exception as error:
            seconds = time.perf_counter() - began
            LOG.debug("%s did not answer", challenger.release.release, exc_info=error)
        else:
            self._record(challenger, "ok", time.perf_counter() - began, True, request, answer)
            return answer
        outcome = "failed"
        try:
            self.stats.metrics.fallbacks.inc()
            return await self._rank_with_champion(request, in_ab_test=False)
        except ApiError as error:
            # The champion refuses it too, so the client made the error.
            outcome = _outcome(error)
            raise
        finally:
            self._record(challenger, outcome, seconds, True, request)

    def _start_shadow(self, challenger: ReleaseServer, request: _Request, answer: RankResponse) -> None:
        if len(self._shadows) >= _MAX_SHADOWS:
            self.stats.record_shadow_skipped(challenger.release.release)
            return
        task = asyncio.create_task(self._shadow(challenger, request, answer))
        self._shadows.add(task)
        task.add_done_callback(self._shadows.discard)

    async def _shadow(self, challenger: ReleaseServer, request: _Request, answer: RankResponse) -> None:
        began = time.perf_counter()
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                shadow = await challenger.rank(request.call)
        except Exception as error:
            LOG.debug("%s did not answer a shadow request", challenger.release.release, exc_info=error)
            self._record(challenger, "failed", time.perf_counter() - began, True, request)
            return
        self._record(challenger, "ok", time.perf_counter() - began, True, request, shadow)
        self.stats.record_shadow(ShadowRecord(challenger.release.release, answer.scores, shadow.scores))

    def _record(
        self,
        server: ReleaseServer,
        outcome: str,
        seconds: float,
        in_ab_test: bool,
        request: _Request,
        answer: RankResponse | None = None,
    ) -> None:
        variant: VariantName = "champion" if server is self.champion else "challenger"
        record = RankRecord(variant, server.release.release, seconds, outcome, in_ab_test, request.context)
        if answer is not None:
            call = request.call
            record = record._replace(
                user_id=call.user_id, items=call.candidate_ids, scores=answer.scores, slot_sources=answer.slot_sources
            )
        self.stats.record_rank(record)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Context in which the gateway synchronizes once a second; the first time before it answers any request."""
        await self.sync()
        task = asyncio.create_task(self._sync_forever())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _sync_forever(self) -> None:
        while True:
            await asyncio.sleep(_SYNC_INTERVAL_S)
            try:
                await self.sync()
            except Exception:
                LOG.exception("synchronizing the statistics failed; next try in %g s", _SYNC_INTERVAL_S)

    async def sync(self) -> None:
        """Exchanges statistics with the aggregator, and aborts the A/B test if the challenger does badly."""
        self.champion.refresh_store()
        unmatched = self.stats.flush({name.split("|")[1] for name in self._shared if name.startswith("initial|")})
        aggregated = await self._aggregator.exchange(self.stats.window_stats(), self._shared, unmatched)
        self.stats.join_forwarded_feedback(aggregated.forwarded_feedback)
        self._aggregated, self._shared = aggregated, self._shared | aggregated.shared
        self._fix_references()
        self._check_abort()
        set_gauges(self.stats.metrics, self.stats_summary(), self.release.challenger)

    def stats_summary(self) -> ServingStats:
        """Statistics of all gateways as of the last synchronization."""
        challenger = self.ab_test.challenger if self.ab_test else None
        return summarize_stats(self._aggregated, self.champion.release.release, challenger)

    def _fix_references(self) -> None:
        if self.stats.uptime_s < self._reference_window_s:
            return
        for server in filter(None, (self.champion, self.challenger)):
            name = f"initial|{server.release.release}"
            if name not in self._shared and name in self._aggregated.stats:
                self._shared[name] = self._aggregated.stats[name]

    def _check_abort(self) -> None:
        if self.ab_test is None or self.abort is not None:
            return
        champion, challenger = (
            self._aggregated.stats.get(f"ab_test|{self.ab_test.id}|{variant}") for variant in ("champion", "challenger")
        )
        reason = abort_reason(champion, challenger, self._limits)
        if reason is not None:
            self._shared[f"abort|{self.ab_test.id}"] = Abort(reason, time.time())
            LOG.warning("A/B test of challenger %s is aborted: %s", self.ab_test.challenger, reason)


def _outcome(error: Exception) -> str:
    """`refused` if the client made the error, else `failed`."""
    refused = isinstance(error, ApiError) and error.status < 500 and error.status != 429
    return "refused" if refused else "failed"
