"""A ranker in this process with the interface of a deployment handle."""

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any

from coldstart.serving.ranker_replica import RankerReplica
from coldstart.serving.scoring import Floats, RankQuery

Scores = list[Floats | Exception]


class LocalHandle:
    """Calls a ranker in this process as `DeploymentHandle` calls a replica."""

    def __init__(self, ranker: RankerReplica) -> None:
        self.ranker, self.rank = ranker, self

    def remote(self, queries: list[RankQuery]) -> "LocalResponse":
        """Scores queries once the response is awaited or its `result` is read."""
        return LocalResponse(self.ranker.rank(queries))


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
