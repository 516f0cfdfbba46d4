"""A scorer in this process with the interface of a deployment handle."""

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any

from coldstart.serving.core.scoring import Floats, RankQuery
from coldstart.serving.deployment.scorer_replica import ScorerReplica

Scores = list[Floats | Exception]


class LocalHandle:
    """Calls a scorer in this process as `DeploymentHandle` calls a replica."""

    def __init__(self, scorer: ScorerReplica) -> None:
        self.scorer, self.rank = scorer, self

    def remote(self, queries: list[RankQuery]) -> "LocalResponse":
        """Scores queries once the response is awaited or its `result` is read."""
        return LocalResponse(self.scorer.rank(queries))


class LocalResponse:
    """Scores that are computed when they are awaited or read, like a `DeploymentResponse`."""

    def __init__(self, scoring: Coroutine[Any, Any, Scores]) -> None:
        self._scoring = scoring

    def __await__(self) -> Generator[Any, None, Scores]:
        return self._scoring.__await__()

    def result(self, timeout_s: float) -> Scores:
        """The scores, for callers without an event loop.

        Raises:
            TimeoutError: scoring took longer than `timeout_s`.
        """

        async def bounded() -> Scores:
            return await asyncio.wait_for(self._scoring, timeout_s)

        return asyncio.run(bounded())
