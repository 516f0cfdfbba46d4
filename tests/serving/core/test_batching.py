"""The micro-batcher: batches, limits, and failures of single queries."""

import asyncio

import pytest
from ray.serve.exceptions import BackPressureError

from coldstart.serving.core.batching import MicroBatcher

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Calls:
    """Doubles each query once the gate is open; records the batches."""

    def __init__(self):
        self.batches, self.gate = [], asyncio.Event()

    async def __call__(self, queries):
        self.batches.append(list(queries))
        await self.gate.wait()
        return [ValueError(f"bad {query}") if query < 0 else 2 * query for query in queries]


def make_batcher(calls, **limits) -> MicroBatcher:
    return MicroBatcher(calls, **{"max_batch_size": 4, "max_wait_s": 60.0, "max_inflight": 2, "max_queue": 8, **limits})


async def run_loop() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_queries_that_wait_for_a_call_form_the_next_batch():
    calls = Calls()
    batcher = make_batcher(calls)
    results = [asyncio.ensure_future(batcher.submit(n)) for n in range(1)]
    await run_loop()
    results += [asyncio.ensure_future(batcher.submit(n)) for n in range(1, 4)]
    await run_loop()
    assert calls.batches == [[0]]
    calls.gate.set()
    assert await asyncio.gather(*results) == [0, 2, 4, 6]
    assert calls.batches == [[0], [1, 2, 3]]


async def test_a_query_waits_at_most_max_wait_s_for_a_call_in_flight():
    calls = Calls()
    batcher = make_batcher(calls, max_wait_s=0.01)
    results = [asyncio.ensure_future(batcher.submit(0))]
    await run_loop()
    results.append(asyncio.ensure_future(batcher.submit(1)))
    while len(calls.batches) < 2:
        await asyncio.sleep(0.005)
    results.append(asyncio.ensure_future(batcher.submit(2)))
    await asyncio.sleep(0.05)
    assert calls.batches == [[0], [1]], "at most two calls are in flight"
    calls.gate.set()
    assert await asyncio.gather(*results) == [0, 2, 4]


async def test_a_full_batch_is_sent_immediately_and_the_queue_is_bounded():
    calls = Calls()
    batcher = make_batcher(calls)
    results = [asyncio.ensure_future(batcher.submit(0))]
    await run_loop()
    results += [asyncio.ensure_future(batcher.submit(n)) for n in range(1, 5)]
    await run_loop()
    assert calls.batches == [[0], [1, 2, 3, 4]]
    results += [asyncio.ensure_future(batcher.submit(n)) for n in range(5, 13)]
    await run_loop()
    with pytest.raises(BackPressureError):
        await batcher.submit(99)
    calls.gate.set()
    assert await asyncio.gather(*results) == [2 * n for n in range(13)]


async def test_only_the_bad_query_of_a_batch_fails():
    calls = Calls()
    calls.gate.set()
    batcher = make_batcher(calls)
    results = await asyncio.gather(*(batcher.submit(n) for n in (1, -1, 2)), return_exceptions=True)
    assert calls.batches == [[1, -1, 2]]
    assert results[0] == 2
    assert results[2] == 4
    assert str(results[1]) == "bad -1"


async def test_a_failed_call_fails_its_queries_and_blocks_nothing():
    broken = True

    async def call(queries):
        if broken:
            raise RuntimeError("gone")
        return queries

    batcher = make_batcher(call)
    results = await asyncio.gather(batcher.submit(1), batcher.submit(2), return_exceptions=True)
    assert [str(result) for result in results] == ["gone", "gone"]
    broken = False
    assert await batcher.submit(3) == 3


async def test_a_cancelled_query_does_not_affect_the_others():
    calls = Calls()
    batcher = make_batcher(calls)
    cancelled_in_flight, first = (asyncio.ensure_future(batcher.submit(n)) for n in (0, 1))
    await run_loop()
    cancelled_in_queue, second = (asyncio.ensure_future(batcher.submit(n)) for n in (2, 3))
    await run_loop()
    cancelled_in_flight.cancel()
    cancelled_in_queue.cancel()
    await run_loop()
    calls.gate.set()
    assert await asyncio.gather(first, second) == [2, 6]
    assert calls.batches == [[0, 1], [3]]
    assert await batcher.submit(5) == 10
