"""Arrow requests against JSON requests: bitwise equal responses, the same limits, and no attack surface."""

import io
import random
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from coldstart.serving.api.arrow_codec import decode_arrow
from coldstart.serving.api.errors import ApiError
from coldstart.serving.api.rank_call import RankCall
from coldstart.serving.api.schemas import ARROW, RankRequest
from tests.serving.tiny import png_image

EVENT = pa.struct({"item_id": pa.string(), "label": pa.int8(), "timestamp": pa.int64()})
TYPES = {
    "user_id": pa.string(),
    "now": pa.int64(),
    "history": pa.list_(EVENT),
    "candidates": pa.list_(pa.string()),
}


def stream(batch: pa.RecordBatch, **options) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def packed(rows: list[dict], **types) -> bytes:
    names = {name for row in rows for name in row}
    return stream(
        pa.record_batch({name: pa.array([row.get(name) for row in rows], ({**TYPES, **types})[name]) for name in names})
    )


def as_rows(request: dict) -> dict:
    return {**request, "candidates": [candidate["item_id"] for candidate in request["candidates"]]}


def some_request(rng: random.Random) -> dict:
    return {
        "user_id": f"u{rng.randrange(99)}",
        "now": rng.randrange(2**31),
        "history": [
            {"item_id": f"i{rng.randrange(99)}", "label": rng.randrange(2), "timestamp": rng.randrange(2**31)}
            for _ in range(rng.randrange(9))
        ],
        "candidates": [{"item_id": f"film-{rng.randrange(20)}"} for _ in range(rng.randrange(1, 9))],
    }


def same(one: RankCall, other: RankCall) -> bool:
    for name, value in vars(one).items():
        theirs = getattr(other, name)
        if isinstance(value, np.ndarray):
            assert (value.dtype, value.tolist()) == (theirs.dtype, theirs.tolist()), name
        else:
            assert value == theirs, name
    return True


def test_arrow_and_json_give_equal_calls():
    rng = random.Random(5)
    requests = [some_request(rng) for _ in range(50)]
    for one, request in zip(decode_arrow(packed([as_rows(r) for r in requests])), requests, strict=True):
        assert same(one, RankCall.from_request(RankRequest.model_validate(request)))


def test_contents_and_features_are_decoded():
    requests = [
        {"candidates": [{"item_id": "a"}, {"title": "t", "image": png_image(3), "features": {"genre": "drama"}}]},
        {"candidates": [{"text": "t"}], "user_features": {"age": 3, "city": "Bern"}, "context": {"hour": 2.5}},
    ]
    item = {"item_id": pa.string(), "title": pa.string(), "text": pa.string(), "image": pa.binary()}
    item["features"] = pa.struct({"genre": pa.string()})
    body = packed(
        requests,
        candidates=pa.list_(pa.struct(item)),
        user_features=pa.struct({"age": pa.int64(), "city": pa.string()}),
        context=pa.struct({"hour": pa.float64()}),
    )
    requests[0] |= {"user_features": {}, "context": {}}
    rows = zip(decode_arrow(body), requests, strict=True)
    assert all(same(one, RankCall.from_request(RankRequest.model_validate(request))) for one, request in rows)


def test_responses_are_bitwise_equal(client):
    rng = random.Random(6)
    requests = [some_request(rng) for _ in range(20)]
    answer = client.post("/v1/rank", content=packed([as_rows(r) for r in requests]), headers={"content-type": ARROW})
    assert (answer.status_code, answer.headers["content-type"]) == (200, ARROW)
    rows = pa.ipc.open_stream(answer.content).read_all().to_pylist()
    for row, request in zip(rows, requests, strict=True):
        plain = client.post("/v1/rank", json=request).json()
        assert plain | {"ms": 0} == row | {"ms": 0}


GOOD = {"candidates": ["a"], "history": [{"item_id": "a", "label": 1, "timestamp": 5}]}


@pytest.mark.parametrize(
    ("row", "types", "where"),
    [
        ({**GOOD, "url": "x"}, {"url": pa.string()}, "url"),
        ({"history": []}, {}, "candidates"),
        ({"candidates": []}, {}, "candidates"),
        ({"candidates": None}, {}, "candidates"),
        ({"candidates": ["a", None]}, {}, "candidates"),
        ({"candidates": [""]}, {}, "candidates"),
        ({"candidates": ["a" * 257]}, {}, "candidates"),
        ({"candidates": [7]}, {"candidates": pa.list_(pa.int64())}, "candidates"),
        ({"candidates": "a"}, {"candidates": pa.string()}, "candidates"),
        ({"candidates": ["a"] * 41}, {}, "at most 40"),
        ({**GOOD, "history": None}, {}, "history"),
        ({**GOOD, "history": [None]}, {}, "history"),
        ({**GOOD, "history": [{"item_id": None, "label": 1, "timestamp": 5}]}, {}, "history.item_id"),
        ({**GOOD, "history": [{"item_id": "a", "label": 2, "timestamp": 5}]}, {}, "history.label"),
        ({**GOOD, "history": [{"item_id": "a", "label": -1, "timestamp": 5}]}, {}, "history.label"),
        ({**GOOD, "history": [{"item_id": "a", "label": 1, "timestamp": -5}]}, {}, "history.timestamp"),
        ({**GOOD, "history": [{"item_id": "a", "label": 1, "timestamp": 10**12}]}, {}, "history.timestamp"),
        ({**GOOD, "history": GOOD["history"] * 10_001}, {}, "history"),
        ({**GOOD, "history": ["a"]}, {"history": pa.list_(pa.string())}, "history"),
        ({**GOOD, "now": -1}, {}, "now"),
        ({**GOOD, "now": 1.5}, {"now": pa.float64()}, "now"),
        ({**GOOD, "user_id": ""}, {}, "user_id"),
        ({**GOOD, "user_features": {"a": 1}}, {"user_features": pa.struct({"a": pa.int64()})}, "user_features"),
        ({**GOOD, "context": {"a": float("nan")}}, {"context": pa.struct({"a": pa.float64()})}, "context"),
        ({**GOOD, "context": 3}, {"context": pa.int64()}, "context"),
        ({"candidates": [{"title": "t"}] * 33}, {"candidates": pa.list_(pa.struct({"title": pa.string()}))}, "32"),
        (
            {"candidates": [{"item_id": "a", "title": "t"}]},
            {"candidates": pa.list_(pa.struct({"item_id": pa.string(), "title": pa.string()}))},
            "either item_id, or content",
        ),
    ],
)
def test_the_limits_of_json_apply(client, gateway, row, types, where):
    answer = client.post("/v1/rank", content=packed([row], **types), headers={"content-type": ARROW})
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/json")
    assert where in answer.json()["error"]["message"]
    assert not gateway.champion.models.scorer.asked


def test_too_many_users_or_none_are_refused():
    for rows in (0, 65):
        with pytest.raises(ApiError, match="rows"):
            decode_arrow(stream(pa.record_batch({"candidates": pa.array([["a"]] * rows, pa.list_(pa.string()))})))


class Strange(pa.ExtensionType):
    def __init__(self):
        super().__init__(pa.string(), "strange")

    def __arrow_ext_serialize__(self):
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage, serialized):
        raise AssertionError("a request ran code of an extension type")


def test_streams_that_are_not_plain_are_refused():
    good = pa.record_batch({"candidates": pa.array([["a" * 200] * 30])})
    decode_arrow(stream(good))
    ids = pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), pa.array(["a"]).dictionary_encode())
    strange = pa.record_batch({"candidates": pa.ExtensionArray.from_storage(Strange(), pa.array(["a"]))})
    two_names = pa.record_batch([pa.array([["a"]]), pa.array([["a"]])], names=["candidates", "candidates"])
    many = pa.record_batch({"candidates": pa.array([["a"]]), "now": pa.nulls(1)})
    bodies = [stream(good, compression=kind) for kind in ("lz4", "zstd")]
    bodies += [
        stream(pa.record_batch({"candidates": ids})),
        stream(two_names),
        stream(many),
        b"",
        b"ARROW1",
        b"\xff" * 64,
    ]
    pa.register_extension_type(Strange())
    try:
        bodies.append(stream(strange))
        for body in bodies:
            with pytest.raises(ApiError) as caught:
                decode_arrow(body)
            assert caught.value.status == 400
    finally:
        pa.unregister_extension_type("strange")


def test_broken_streams_neither_crash_nor_leak():
    """In a separate process, as a failure may kill it."""
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    refused, read = map(int, done.stdout.split())
    assert refused > 2000
    assert read > 10  # Changed padding bytes, or letters of an id.


def _break_streams(count: int) -> None:
    rng = random.Random(7)
    refused = read = 0
    for _ in range(count):
        body = bytearray(packed([as_rows(some_request(rng)) for _ in range(rng.randrange(1, 3))]))
        for _ in range(rng.randrange(1, 6)):
            place = rng.randrange(len(body))
            body[place : place + rng.choice((1, 4, 8))] = rng.choice(
                [rng.randbytes(1), b"\xff" * 8, b"\x7f" + b"\xff" * 3, b"\0" * 4, b"\0" * 7 + b"\x7f", b""]
            )
        try:
            decode_arrow(bytes(body[: rng.choice((len(body), rng.randrange(len(body) + 1)))]))
            read += 1
        except ApiError:
            refused += 1
    print(refused, read)


if __name__ == "__main__":
    _break_streams(int(sys.argv[1]) if len(sys.argv) > 1 else 4000)
