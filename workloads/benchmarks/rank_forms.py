"""What a form of /v1/rank costs: bytes of request and answer, and the processor time to read and write them."""

import json
import random
import time
import timeit
from collections.abc import Callable
from typing import Any

import pyarrow as pa
from rich.table import Table

from coldstart.serving.arrow_form import read_arrow, write_arrow
from coldstart.serving.body import read_json, validated
from coldstart.serving.call import RankCall
from coldstart.serving.schemas import RankAnswer, RankAnswers, RankRequest, RankRequests
from workloads.console import CONSOLE

_ARROW = pa.schema(
    {
        "user_id": pa.string(),
        "now": pa.int64(),
        "history": pa.list_(pa.struct({"item_id": pa.string(), "label": pa.int8(), "timestamp": pa.int64()})),
        "candidates": pa.list_(pa.string()),
    }
)
_REPEATS = 7


def requests(users: int, history: int, candidates: int) -> list[dict[str, Any]]:
    """Requests as JSON holds them."""
    rng = random.Random(17)

    def item() -> str:
        return f"i{rng.randrange(10**7):07d}"

    return [
        {
            "user_id": f"u{rng.randrange(10**6)}",
            "now": 1_740_003_600,
            "history": [
                {"item_id": item(), "label": rng.randrange(2), "timestamp": 1_740_000_000 + 60 * i}
                for i in range(history)
            ],
            "candidates": [{"item_id": item()} for _ in range(candidates)],
        }
        for _ in range(users)
    ]


def answers(users: int, candidates: int) -> list[RankAnswer]:
    """Answers as the models give them: scores in 32 bits."""
    scores = pa.array([random.Random(3).random() for _ in range(candidates)], pa.float32()).to_pylist()
    return [RankAnswer(scores=scores, vectors=["id"] * candidates, release="demo-adaptor/1", ms=3.5)] * users


def forms(given: list[dict[str, Any]], answered: list[RankAnswer]) -> dict[str, tuple[bytes, bytes, Any, Any]]:
    """By form: the bytes of a request and of an answer, and the functions that read and write them."""
    rows = [{**one, "candidates": [candidate["item_id"] for candidate in one["candidates"]]} for one in given]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, _ARROW) as writer:
        writer.write_batch(pa.RecordBatch.from_pylist(rows, _ARROW))
    packed = sink.getvalue().to_pybytes()
    text = json.dumps(given[0] if len(given) == 1 else {"requests": given}, separators=(",", ":")).encode()

    def read() -> list[RankCall]:
        parsed = read_json(text)
        if len(given) == 1:
            return [RankCall.of(validated(RankRequest, parsed))]
        return [RankCall.of(one) for one in validated(RankRequests, parsed).requests]

    def write() -> bytes:
        answer = answered[0] if len(answered) == 1 else RankAnswers(answers=answered)
        return answer.__pydantic_serializer__.to_json(answer)

    return {
        "JSON": (text, write(), read, write),
        "Arrow": (packed, write_arrow(answered), lambda: read_arrow(packed), lambda: write_arrow(answered)),
    }


def microseconds(work: Callable[[], object]) -> float:
    """Processor time, the least of several runs: what others do on the machine only ever adds."""
    timer = timeit.Timer(work, timer=time.process_time)
    rounds, _ = timer.autorange()
    return 1e6 * min(timer.repeat(_REPEATS, max(rounds // 4, 1))) / max(rounds // 4, 1)


def main() -> None:
    """Prints a table."""
    table = Table(
        "users", "history", "candidates", "form", "request bytes", "answer bytes", "read us", "write us", box=None
    )
    for users, history, candidates in ((1, 50, 32), (1, 50, 200), (16, 50, 32), (16, 50, 200), (64, 200, 200)):
        made = forms(requests(users, history, candidates), answers(users, candidates))
        for form, (asked, said, read, write) in made.items():
            row = (users, history, candidates, form, len(asked), len(said), f"{microseconds(read):.0f}")
            table.add_row(*map(str, row), f"{microseconds(write):.0f}")
    CONSOLE.print(table)


if __name__ == "__main__":
    main()
