"""Measures the formats of /v1/rank: bytes of request and response, and the CPU time to read and write them."""

import json
import random
import time
import timeit
from collections.abc import Callable
from typing import Any

import pyarrow as pa
from rich.table import Table

from coldstart.jobs.progress import CONSOLE
from coldstart.serving.api.arrow_codec import decode_arrow, encode_arrow
from coldstart.serving.api.json_body import read_json, validated
from coldstart.serving.api.rank_call import RankCall
from coldstart.serving.api.schemas import RankBatchRequest, RankBatchResponse, RankRequest, RankResponse

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
    """Random requests in the form of JSON."""
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


def responses(users: int, candidates: int) -> list[RankResponse]:
    """Responses with 32-bit scores, as the models compute them."""
    scores = pa.array([random.Random(3).random() for _ in range(candidates)], pa.float32()).to_pylist()
    return [RankResponse(scores=scores, slot_sources=["id"] * candidates, release="demo-scorer/1", ms=3.5)] * users


def formats(bodies: list[dict[str, Any]], results: list[RankResponse]) -> dict[str, tuple[bytes, bytes, Any, Any]]:
    """Format -> request bytes, response bytes, and the functions that read the request and write the response."""
    rows = [{**one, "candidates": [candidate["item_id"] for candidate in one["candidates"]]} for one in bodies]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, _ARROW) as writer:
        writer.write_batch(pa.RecordBatch.from_pylist(rows, _ARROW))
    packed = sink.getvalue().to_pybytes()
    text = json.dumps(bodies[0] if len(bodies) == 1 else {"requests": bodies}, separators=(",", ":")).encode()

    def read() -> list[RankCall]:
        parsed = read_json(text)
        if len(bodies) == 1:
            return [RankCall.from_request(validated(RankRequest, parsed))]
        return [RankCall.from_request(one) for one in validated(RankBatchRequest, parsed).requests]

    def write() -> bytes:
        body = results[0] if len(results) == 1 else RankBatchResponse(responses=results)
        return body.__pydantic_serializer__.to_json(body)

    return {
        "JSON": (text, write(), read, write),
        "Arrow": (packed, encode_arrow(results), lambda: decode_arrow(packed), lambda: encode_arrow(results)),
    }


def microseconds(work: Callable[[], object]) -> float:
    """CPU time, the minimum of several runs, because other load on the machine only adds to it."""
    timer = timeit.Timer(work, timer=time.process_time)
    rounds, _ = timer.autorange()
    return 1e6 * min(timer.repeat(_REPEATS, max(rounds // 4, 1))) / max(rounds // 4, 1)


def main() -> None:
    """Runs the benchmark as a program and prints a table."""
    table = Table(
        "users", "history", "candidates", "format", "request bytes", "response bytes", "read us", "write us", box=None
    )
    for users, history, candidates in ((1, 50, 32), (1, 50, 200), (16, 50, 32), (16, 50, 200), (64, 200, 200)):
        measured = formats(requests(users, history, candidates), responses(users, candidates))
        for name, (request, response, read, write) in measured.items():
            row = (users, history, candidates, name, len(request), len(response), f"{microseconds(read):.0f}")
            table.add_row(*map(str, row), f"{microseconds(write):.0f}")
    CONSOLE.print(table)


if __name__ == "__main__":
    main()
