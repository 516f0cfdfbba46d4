"""A Ray actor that adds up the statistics of all gateways: each sends its own once a second and gets the total back.

No request depends on the actor. While it is down, each gateway uses its own statistics; after a restart, the gateways
send their statistics and the shared values again.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import ray
from ray.exceptions import RayError

from coldstart.serving.ab_test.experiment import ABTest
from coldstart.serving.monitoring.window_stats import WindowStats, merge

LOG = logging.getLogger("ray.serve")

SharedValues = dict[str, Any]
"""Values that are set once, by `kind|release` or `kind|A/B test`: why a test was aborted, reference scores."""

_NAME, _NAMESPACE = "coldstart-stats-aggregator", "serve"
_GATEWAY_EXPIRY_S = 10.0
"""A gateway that sends no report for so long is dropped from the total."""
_MAX_FORWARDED_FEEDBACK = 20_000
_TIMEOUT_S = 5.0
_START_TIMEOUT_S = 120.0
"""A first call waits for the actor's process, which imports Ray Serve and torch: seconds on a busy machine."""


@dataclass(frozen=True)
class StatsReport:
    """What a gateway sends.

    Attributes:
        gateway_id: Unique id of the gateway.
        stats: All of its current statistics, not only the changes.
        shared: All shared values it knows.
        forwarded_feedback: New feedback on answers that it does not remember, for the other gateways.
        cursor: Aggregator id, and how much forwarded feedback this gateway has received from it.
    """

    gateway_id: str
    stats: WindowStats
    shared: SharedValues = field(default_factory=dict)
    forwarded_feedback: list[Any] = field(default_factory=list)
    cursor: tuple[str, int] = ("", 0)


@dataclass(frozen=True)
class AggregatedStats:
    """What a gateway gets back.

    Attributes:
        stats: Sum over all gateways.
        gateways: Number of gateways.
        shared: Shared values of all gateways.
        forwarded_feedback: Feedback from the other gateways that this one has not received yet.
        cursor: To be sent with the next report.
    """

    stats: WindowStats
    gateways: int
    shared: SharedValues
    forwarded_feedback: list[Any]
    cursor: tuple[str, int]


class StatsAggregator:
    """Adds up the statistics of all gateways. Free of Ray; `get_aggregator` makes an actor of it."""

    def __init__(self) -> None:
        self._id = uuid4().hex
        self._stats: dict[str, tuple[float, WindowStats]] = {}
        self._shared: SharedValues = {}
        self._forwarded_feedback: deque[tuple[str, Any]] = deque(maxlen=_MAX_FORWARDED_FEEDBACK)
        self._received = 0
        self._ab_test: ABTest | None = None

    def exchange(self, report: StatsReport) -> AggregatedStats:
        """Stores the report of one gateway and returns the statistics of all."""
        now = time.monotonic()
        self._stats[report.gateway_id] = now, report.stats
        self._stats = {
            gateway: (at, stats) for gateway, (at, stats) in self._stats.items() if at > now - _GATEWAY_EXPIRY_S
        }
        self._shared = report.shared | self._shared
        aggregator, read = report.cursor
        unread = self._received - read if aggregator == self._id else 0
        feedback = list(self._forwarded_feedback)[-unread:] if unread else []
        self._forwarded_feedback.extend((report.gateway_id, record) for record in report.forwarded_feedback)
        self._received += len(report.forwarded_feedback)
        return AggregatedStats(
            stats=merge({gateway: stats for gateway, (_, stats) in self._stats.items()}),
            gateways=len(self._stats),
            shared=self._shared,
            forwarded_feedback=[record for gateway, record in feedback if gateway != report.gateway_id],
            cursor=(self._id, self._received),
        )

    def put_shared_values(self, shared: SharedValues) -> None:
        """Adds shared values that no gateway can compute."""
        self._shared = self._shared | shared

    def start_ab_test(self, champion: str, challenger: str | None) -> ABTest | None:
        """Returns the running A/B test of this challenger, or a new one; `None` without a challenger.

        Shared values of releases and tests that are no longer served are deleted.
        """
        if challenger is None:
            self._ab_test = None
        else:
            same = self._ab_test is not None and self._ab_test.challenger == challenger
            test_id = self._ab_test.id if self._ab_test and same else uuid4().hex[:12]
            self._ab_test = ABTest(test_id, champion, challenger)
        served = {champion, challenger, self._ab_test and self._ab_test.id}
        self._shared = {name: value for name, value in self._shared.items() if name.split("|")[1] in served}
        return self._ab_test


def get_aggregator() -> Any:
    """Returns the actor of the running Ray cluster; creates it if there is none."""
    actor = ray.remote(StatsAggregator).options(
        name=_NAME,
        namespace=_NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        max_restarts=-1,
        max_task_retries=3,
        num_cpus=0,
    )
    return actor.remote()


def kill_aggregator() -> None:
    """Kills the actor, if there is one."""
    with suppress(ValueError):
        ray.kill(ray.get_actor(_NAME, namespace=_NAMESPACE))


class AggregatorClient:
    """A gateway's connection to the aggregator.

    Args:
        aggregator: From `get_aggregator`; `None`: there is no aggregator, and the gateway uses its own statistics only.
    """

    def __init__(self, aggregator: Any | None) -> None:
        self._aggregator = aggregator
        self._gateway_id = uuid4().hex
        self._cursor: tuple[str, int] = ("", 0)
        self._disconnected = False

    async def exchange(
        self, stats: WindowStats, shared: SharedValues, forwarded_feedback: list[Any]
    ) -> AggregatedStats:
        """Sends this gateway's report and returns the statistics of all; of this gateway alone if the actor is down."""
        report = StatsReport(self._gateway_id, stats, shared, forwarded_feedback, self._cursor)
        if self._aggregator is not None:
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    aggregated: AggregatedStats = await self._aggregator.exchange.remote(report)
            except (RayError, TimeoutError) as error:
                self._log_change(disconnected=True, reason=str(error).splitlines()[0] if str(error) else "no answer")
            else:
                self._log_change(disconnected=False)
                self._cursor = aggregated.cursor
                return aggregated
        return AggregatedStats(stats, 1, shared, [], self._cursor)

    def _log_change(self, *, disconnected: bool, reason: str = "") -> None:
        if disconnected and not self._disconnected:
            LOG.warning("the statistics aggregator is down; each gateway uses its own statistics: %s", reason)
        elif self._disconnected and not disconnected:
            LOG.warning("the statistics aggregator is up again")
        self._disconnected = disconnected


def start_ab_test(aggregator: Any, champion: str, challenger: str | None, shared: Mapping[str, Any]) -> ABTest | None:
    """Puts shared values and returns the A/B test of a challenger; see `StatsAggregator.start_ab_test`."""
    put_shared_values(aggregator, shared)
    ab_test: ABTest | None = ray.get(aggregator.start_ab_test.remote(champion, challenger), timeout=_START_TIMEOUT_S)
    return ab_test


def put_shared_values(aggregator: Any, shared: Mapping[str, Any]) -> None:
    """Adds shared values that no gateway can compute."""
    ray.get(aggregator.put_shared_values.remote(dict(shared)), timeout=_START_TIMEOUT_S)
