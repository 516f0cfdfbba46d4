"""Calls of models: retries when a replica dies, and deadlines."""

import asyncio

import numpy as np
import pytest
from ray.exceptions import ActorUnavailableError

from coldstart.config.recipe import Serving
from coldstart.data.content import Content
from coldstart.serving.core.model_handles import ModelHandles
from coldstart.serving.monitoring.stats_collector import StatsCollector

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Handle:
    """A fake deployment handle whose replica dies a few times."""

    def __init__(self, answer, deaths=0):
        self.answer, self.deaths = answer, deaths
        self.encode = self.adapt = self.rank = self

    async def remote(self, argument):
        if self.deaths:
            self.deaths -= 1
            raise ActorUnavailableError("killed", None)
        return self.answer(argument)


def models(scorer, encoder=None, **settings) -> ModelHandles:
    serving = Serving(**settings)
    return ModelHandles(
        encoder or Handle(lambda c: (c, 1)),
        Handle(lambda r: (np.ones(3), 1)),
        scorer,
        serving,
        StatsCollector(serving, None),
    )


async def test_a_call_is_retried_when_its_replica_dies():
    scorer = Handle(lambda queries: [np.full(2, query) for query in queries], deaths=2)
    answers = await asyncio.gather(*(models(scorer).rank(n) for n in (1, 2)))
    assert [answer.tolist() for answer in answers] == [[1, 1], [2, 2]]
    row = await models(scorer, Handle(lambda content: (content, 1), deaths=1)).row(Content("t", None, None))
    assert row.shape == (3,)


async def test_a_replica_that_stays_dead_ends_in_a_timeout():
    dead = models(Handle(lambda queries: queries, deaths=10**6), request_timeout_s=0.2)
    with pytest.raises(TimeoutError):
        await dead.rank(1)
