"""Queries of one gateway travel together, and nobody's trouble is another's."""

import asyncio

import numpy as np
import pytest
from ray.exceptions import ActorUnavailableError
from ray.serve.exceptions import BackPressureError

from coldstart.config.recipe import Serving
from coldstart.data.content import Content
from coldstart.serving.batching import Together
from coldstart.serving.models import Models
from coldstart.serving.watch import Watch

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Calls:
    """Answers each ask with its double once the gate is open; remembers what travelled together."""

    def __init__(self):
        self.seen, self.gate = [], asyncio.Event()

    async def __call__(self, asks):
        self.seen.append(list(asks))
        await self.gate.wait()
        return [ValueError(f"bad {ask}") if ask < 0 else 2 * ask for ask in asks]


def together(calls, **limits) -> Together:
    return Together(calls, **{"most": 4, "patience_s": 60.0, "flights": 2, "queue": 8, **limits})


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_waits_for_a_call_travels_together_in_the_next():
    calls = Calls()
    asked = together(calls)
    answers = [asyncio.ensure_future(asked.ask(n)) for n in range(1)]
    await settled()
    answers += [asyncio.ensure_future(asked.ask(n)) for n in range(1, 4)]
    await settled()
    assert calls.seen == [[0]]
    calls.gate.set()
    assert await asyncio.gather(*answers) == [0, 2, 4, 6]
    assert calls.seen == [[0], [1, 2, 3]]


async def test_nobody_waits_longer_than_the_patience_for_a_call_under_way():
    calls = Calls()
    asked = together(calls, patience_s=0.01)
    answers = [asyncio.ensure_future(asked.ask(0))]
    await settled()
    answers.append(asyncio.ensure_future(asked.ask(1)))
    while len(calls.seen) < 2:
        await asyncio.sleep(0.005)
    answers.append(asyncio.ensure_future(asked.ask(2)))
    await asyncio.sleep(0.05)
    assert calls.seen == [[0], [1]], "two flights are the most"
    calls.gate.set()
    assert await asyncio.gather(*answers) == [0, 2, 4]


async def test_a_full_crew_leaves_at_once_and_the_queue_is_bounded():
    calls = Calls()
    asked = together(calls)
    answers = [asyncio.ensure_future(asked.ask(0))]
    await settled()
    answers += [asyncio.ensure_future(asked.ask(n)) for n in range(1, 5)]
    await settled()
    assert calls.seen == [[0], [1, 2, 3, 4]]
    answers += [asyncio.ensure_future(asked.ask(n)) for n in range(5, 13)]
    await settled()
    with pytest.raises(BackPressureError):
        await asked.ask(99)
    calls.gate.set()
    assert await asyncio.gather(*answers) == [2 * n for n in range(13)]


async def test_one_bad_ask_fails_alone():
    calls = Calls()
    calls.gate.set()
    asked = together(calls)
    answers = await asyncio.gather(*(asked.ask(n) for n in (1, -1, 2)), return_exceptions=True)
    assert calls.seen == [[1, -1, 2]]
    assert answers[0] == 2
    assert answers[2] == 4
    assert str(answers[1]) == "bad -1"


async def test_a_call_that_fails_is_told_to_all_who_were_in_it_and_wedges_nothing():
    broken = True

    async def call(asks):
        if broken:
            raise RuntimeError("gone")
        return asks

    asked = together(call)
    answers = await asyncio.gather(asked.ask(1), asked.ask(2), return_exceptions=True)
    assert [str(answer) for answer in answers] == ["gone", "gone"]
    broken = False
    assert await asked.ask(3) == 3


async def test_who_gives_up_before_or_in_a_call_takes_nothing_from_the_others():
    calls = Calls()
    asked = together(calls)
    flying, stays = (asyncio.ensure_future(asked.ask(n)) for n in (0, 1))
    await settled()
    waits, stays_too = (asyncio.ensure_future(asked.ask(n)) for n in (2, 3))
    await settled()
    flying.cancel()
    waits.cancel()
    await settled()
    calls.gate.set()
    assert await asyncio.gather(stays, stays_too) == [2, 6]
    assert calls.seen == [[0, 1], [3]]
    assert await asked.ask(5) == 10


class Handle:
    """Stands for the handle of a deployment whose replica dies a few times."""

    def __init__(self, answer, deaths=0):
        self.answer, self.deaths = answer, deaths
        self.read = self.adapt = self.rank = self

    async def remote(self, argument):
        if self.deaths:
            self.deaths -= 1
            raise ActorUnavailableError("killed", None)
        return self.answer(argument)


def models(ranker, encoder=None, **settings) -> Models:
    told = Serving(**settings)
    return Models(
        encoder or Handle(lambda c: (c, 1)), Handle(lambda r: (np.ones(3), 1)), ranker, told, Watch(told, None)
    )


async def test_a_call_whose_replica_dies_is_made_again():
    ranker = Handle(lambda queries: [np.full(2, query) for query in queries], deaths=2)
    answers = await asyncio.gather(*(models(ranker).rank(n) for n in (1, 2)))
    assert [answer.tolist() for answer in answers] == [[1, 1], [2, 2]]
    proxy = await models(ranker, Handle(lambda content: (content, 1), deaths=1)).proxy(Content("t", None, None))
    assert proxy.shape == (3,)


async def test_a_replica_that_never_comes_back_ends_in_a_timeout():
    dead = models(Handle(lambda queries: queries, deaths=10**6), request_timeout_s=0.2)
    with pytest.raises(TimeoutError):
        await dead.rank(1)
