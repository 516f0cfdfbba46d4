"""The load, as a process of its own: rankings at a steady rate, each answer compared with the release it names.

`python -m workloads.benchmarks.soak.load plan.json result.json` sends until it is told to end (SIGTERM). The rate is
kept whatever the server does: a request that waits does not hold back those that follow.
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

from coldstart.client import AsyncClient, CallError, PublishRequest, RankAnswer, RankRequest, Retries

TOLERANCE = 1e-5
_MOST_WAITING = 2_000


@dataclass
class Tally:
    """What came back.

    Attributes:
        milliseconds: Of each answer, its retries included, in the order of the answers.
        failed: Second of the run and message of each call that came to nothing.
        wrong: Second of the run and description of each answer that no release would give.
        releases: Release -> answers.
        vectors: Kind of vector -> candidates.
        worst: Largest difference to the offline score of the release named.
        published: Items published, again and again.
        retries: Reason -> attempts sent again.
    """

    milliseconds: list[float] = field(default_factory=list)
    failed: list[tuple[float, str]] = field(default_factory=list)
    wrong: list[tuple[float, str]] = field(default_factory=list)
    releases: Counter[str] = field(default_factory=Counter)
    vectors: Counter[str] = field(default_factory=Counter)
    worst: float = 0.0
    published: int = 0
    retries: dict[str, int] = field(default_factory=dict)

    def compare(self, second: float, answer: RankAnswer, expected: dict[str, dict[str, list[float]]]) -> None:
        """Adds an answer; `expected` is release -> kind of vector -> offline scores of this request."""
        self.releases[answer.release] += 1
        self.vectors.update(answer.vectors)
        own = expected.get(answer.release)
        if own is None:
            self.wrong.append((second, f"{answer.release} was never promoted"))
            return
        apart = max(
            abs(score - own[kind][position])
            for position, (score, kind) in enumerate(zip(answer.scores, answer.vectors, strict=True))
        )
        self.worst = max(self.worst, apart)
        if apart > TOLERANCE:
            closest = min(expected, key=lambda name: abs(answer.scores[0] - expected[name][answer.vectors[0]][0]))
            self.wrong.append((second, f"off by {apart:.1e}, says {answer.release}, first score is of {closest}"))


async def send(plan: dict[str, Any], until: asyncio.Event) -> Tally:
    """Sends the plan's requests in turn at its rate until told to end, then waits for the answers that are due.

    Beside them its items are published in turn, each again when its turn comes, which replaces it by itself.
    """
    tally, began = Tally(), time.monotonic()
    requests = [RankRequest.model_validate(request, strict=False) for request in plan["requests"]]
    # Patient: here a failed request is one that no retry within the deadline could save.
    retries = Retries(most=100, cap_s=1.0)
    items = [PublishRequest.model_validate(item, strict=False) for item in plan["items"]]
    slots = asyncio.Semaphore(_MOST_WAITING)
    async with AsyncClient(plan["url"], deadline_s=plan["deadline_s"], retries=retries) as client:

        async def ask(number: int) -> None:
            sent = time.monotonic()
            try:
                answer = await client.rank(requests[number])
            except CallError as error:
                tally.failed.append((round(sent - began, 2), str(error)))
            else:
                tally.milliseconds.append(1000 * (time.monotonic() - sent))
                expected = {name: {k: v[number] for k, v in kinds.items()} for name, kinds in plan["expected"].items()}
                tally.compare(round(sent - began, 2), answer, expected)
            finally:
                slots.release()

        async def publish() -> None:
            for item in cycle(items):
                if until.is_set():
                    return
                try:
                    await client.publish(item)
                    tally.published += 1
                except CallError as error:
                    tally.failed.append((round(time.monotonic() - began, 2), str(error)))
                await asyncio.sleep(plan["publish_every_s"])

        async with asyncio.TaskGroup() as waiting:
            waiting.create_task(publish())
            number, due = 0, time.monotonic()
            while not until.is_set():
                await slots.acquire()
                waiting.create_task(ask(number % len(requests)))
                number, due = number + 1, due + 1 / plan["rate"]
                await asyncio.sleep(max(due - time.monotonic(), 0))
        tally.retries = dict(client.counts.retries)
    return tally


async def _main(plan: Path, result: Path) -> None:
    until = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, until.set)
    tally = await send(json.loads(plan.read_text()), until)
    result.write_text(json.dumps(vars(tally)))


if __name__ == "__main__":
    asyncio.run(_main(*map(Path, sys.argv[1:])))
