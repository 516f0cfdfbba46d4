"""Sends rankings at a steady rate and compares every response with the offline scores of the release that it names.

`python -m workloads.benchmarks.soak.load_generator plan.json result.json` sends until SIGTERM. The load is open-loop:
a slow request does not delay those that follow.
"""

import asyncio
import json
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

from coldstart.client import AsyncClient, CallError, PublishRequest, RankRequest, RankResponse, RetryPolicy

TOLERANCE = 1e-5
_MAX_IN_FLIGHT = 2_000


@dataclass
class LoadResult:
    """What the client received.

    Attributes:
        milliseconds: Latency of each response, retries included, in the order of the responses.
        failed: Second of the run and message of each failed call.
        wrong: Second of the run and description of each response that differs from its release's offline scores.
        releases: Release -> responses.
        slot_sources: Slot source -> candidates.
        max_difference: Largest difference to the offline score of the named release.
        published: Published items, repetitions included.
        retries: Reason -> retried attempts.
    """

    milliseconds: list[float] = field(default_factory=list)
    failed: list[tuple[float, str]] = field(default_factory=list)
    wrong: list[tuple[float, str]] = field(default_factory=list)
    releases: Counter[str] = field(default_factory=Counter)
    slot_sources: Counter[str] = field(default_factory=Counter)
    max_difference: float = 0.0
    published: int = 0
    retries: dict[str, int] = field(default_factory=dict)

    def compare(self, second: float, answer: RankResponse, expected: dict[str, dict[str, list[float]]]) -> None:
        """Adds a response; `expected` is release -> slot source -> offline scores of this request."""
        self.releases[answer.release] += 1
        self.slot_sources.update(answer.slot_sources)
        offline = expected.get(answer.release)
        if offline is None:
            self.wrong.append((second, f"{answer.release} was never promoted"))
            return
        difference = max(
            abs(score - offline[source][position])
            for position, (score, source) in enumerate(zip(answer.scores, answer.slot_sources, strict=True))
        )
        self.max_difference = max(self.max_difference, difference)
        if difference > TOLERANCE:
            closest = min(expected, key=lambda name: abs(answer.scores[0] - expected[name][answer.slot_sources[0]][0]))
            names = f"names {answer.release}, first score is of {closest}"
            self.wrong.append((second, f"off by {difference:.1e}, {names}"))


async def send(plan: dict[str, Any], until: asyncio.Event) -> LoadResult:
    """Sends the plan's requests in turn at its rate until `until` is set, then waits for open responses.

    Meanwhile its items are published in turn, again and again; every publication replaces an item by itself.
    """
    result, started = LoadResult(), time.monotonic()
    requests = [RankRequest.model_validate(request, strict=False) for request in plan["requests"]]
    # Many retries: a request fails only if no retry within the deadline succeeds.
    retries = RetryPolicy(max_retries=100, backoff_max_s=1.0)
    items = [PublishRequest.model_validate(item, strict=False) for item in plan["items"]]
    slots = asyncio.Semaphore(_MAX_IN_FLIGHT)
    async with AsyncClient(plan["url"], deadline_s=plan["deadline_s"], retries=retries) as client:

        async def ask(number: int) -> None:
            sent = time.monotonic()
            try:
                answer = await client.rank(requests[number])
            except CallError as error:
                result.failed.append((round(sent - started, 2), str(error)))
            else:
                result.milliseconds.append(1000 * (time.monotonic() - sent))
                expected = {name: {k: v[number] for k, v in rows.items()} for name, rows in plan["expected"].items()}
                result.compare(round(sent - started, 2), answer, expected)
            finally:
                slots.release()

        async def publish() -> None:
            for item in cycle(items):
                if until.is_set():
                    return
                try:
                    await client.publish(item)
                    result.published += 1
                except CallError as error:
                    result.failed.append((round(time.monotonic() - started, 2), str(error)))
                await asyncio.sleep(plan["publish_every_s"])

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(publish())
            number, due = 0, time.monotonic()
            while not until.is_set():
                await slots.acquire()
                tasks.create_task(ask(number % len(requests)))
                number, due = number + 1, due + 1 / plan["rate"]
                await asyncio.sleep(max(due - time.monotonic(), 0))
        result.retries = dict(client.counts.retries)
    return result


async def _main(plan: Path, out: Path) -> None:
    until = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, until.set)
    result = await send(json.loads(plan.read_text()), until)
    out.write_text(json.dumps(vars(result)))


if __name__ == "__main__":
    asyncio.run(_main(*map(Path, sys.argv[1:])))
