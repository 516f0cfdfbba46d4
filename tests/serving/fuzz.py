"""Hostile requests. Each is generated from its number alone:

python -m tests.serving.fuzz 4711    prints the bytes of request 4711
"""

import base64
import gzip
import json
import random
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.serving.api.test_arrow_codec import ARROW, as_rows, packed, some_request
from tests.serving.hostile_images import flipped, strange_image
from tests.serving.tiny import IDS, png_image

SEED = 20261120
JSON = "application/json"
INTERNALS = re.compile(
    rb"Traceback|File \"|\.py\b|site-packages|/tmp/|/srv/|/home/|/root/|coldstart\.serving|\bray\b|pydantic|pyarrow"
    rb"|PIL\.|[A-Z]\w+(Error|Exception)\b|object at 0x|SERVE_REPLICA|ReplicaID|num_queued"
)
"""A response must never contain traces, paths, modules or class names."""


@dataclass
class HostileRequest:
    """A hostile request.

    Attributes:
        family: What is wrong with it.
        method: HTTP method.
        target: Path and query.
        headers: Names and values; the length is added.
        body: The body.
        wire: The bytes of a request that is not HTTP; they replace all attributes above.
        cut: Number of bytes at the end of the body that are not sent; then the client disconnects.
        drip: Seconds between two bytes of the body.
    """

    family: str
    method: str = "POST"
    target: str = "/v1/rank"
    headers: list[tuple[str, bytes]] = field(default_factory=lambda: [("content-type", JSON.encode())])
    body: bytes = b""
    wire: bytes | None = None
    cut: int = 0
    drip: float = 0.0

    @property
    def wire_bytes(self) -> bytes:
        if self.wire is not None:
            return self.wire
        named = {name.lower() for name, _ in self.headers}
        fields = [*self.headers] if "host" in named else [("host", b"127.0.0.1"), *self.headers]
        if not named & {"content-length", "transfer-encoding"}:
            fields.append(("content-length", str(len(self.body)).encode()))
        lines = b"".join(name.encode() + b": " + value + b"\r\n" for name, value in fields)
        return f"{self.method} {self.target} HTTP/1.1\r\n".encode() + lines + b"\r\n" + self.body


def hostile_request(number: int) -> HostileRequest:
    """Request `number`."""
    rng = random.Random(f"{SEED}:{number}")
    return FAMILIES[number % len(FAMILIES)](rng)


def good_rank(rng: random.Random) -> dict:
    body = some_request(rng)
    if rng.random() < 0.3:
        body["candidates"].append(
            {"title": "a title", "text": "a text", "image": encoded(png_image(rng.randrange(250)))}
        )
    if rng.random() < 0.2:
        body |= {"user_features": {"age": 3}, "context": {"hour": 2.5}}
    return {"requests": [body, some_request(rng)]} if rng.random() < 0.2 else body


def good_item(rng: random.Random) -> dict:
    return {"item_id": f"fuzz-{rng.randrange(50)}", "title": "a title", "image": encoded(png_image(rng.randrange(250)))}


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


class Raw(str):
    """JSON text that is inserted into the body unchanged."""


HOSTILE: list[Callable[[random.Random], object]] = [
    lambda rng: rng.choice(
        [None, True, False, 0, -1, 1, 2, 0.5, -0.0, 1e308, 5e-324, "", " ", [], {}, [[]], [{}], {"": 0}]
    ),
    lambda rng: Raw(
        rng.choice(["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "0x10", "01", "1.", ".5", "+1", "'a'"])
    ),
    lambda rng: Raw(rng.choice(["9" * 400, "9" * 5000, "-" + "9" * 25, "1" + "0" * 300 + ".5", "1e-99999", "9" * 19])),
    lambda rng: rng.choice([2**31, 2**63 - 1, 2**63, -(2**63), 2**64, 10**30, 253_402_300_800]),
    lambda rng: rng.choice(
        ["a" * 300, "a" * 3_000, "\u0000", "\u202e", "\ufeff", "\U0001f4a9" * 90, "e" + "\u0301" * 250]
    ),
    lambda rng: Raw(rng.choice(['"\\ud800"', '"\\udc00\\ud800"', '"\\u12"', '"\\x41"', '"\x01"', '"\t"', '"unclosed'])),
    lambda rng: rng.choice(
        ["../../etc/passwd", "file:///etc/passwd", "http://169.254.169.254/", "'; DROP TABLE x; --"]
    ),
    lambda rng: rng.choice(
        ["{{7*7}}", "${jndi:ldap://x}", "<script>alert(1)</script>", "%00%0d%0a", "\r\nset-cookie: a=b"]
    ),
    lambda rng: Raw("[" * rng.choice((10, 150, 250, 5_000)) + "]" * rng.choice((0, 10, 150, 250, 5_000))),
    lambda rng: Raw('{"a":' * rng.choice((10, 150, 5_000)) + "1" + "}" * rng.choice((10, 150, 5_000))),
    lambda rng: {f"k{i}": i for i in range(rng.choice((1, 201, 2_000)))},
    lambda rng: [rng.choice([None, 1, "a", {}, {"item_id": "a"}])] * rng.choice((1, 41, 65, 10_001)),
    lambda rng: rng.choice(
        ["QQ", "QQ=", "QQ==\n", "Q Q=", "====", "data:image/png;base64,AAAA", "\u00e9", encoded(b"\0" * 60_000)]
    ),
    lambda rng: encoded(strange_image(rng)),
]


def paths_in(value: object, path: tuple = ()) -> list[tuple]:
    """Paths to all values inside a JSON value."""
    found = [path] if path else []
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inside:
        found += paths_in(part, (*path, key))
    return found


def to_json(value: object) -> bytes:
    raws: list[str] = []

    def marked(part: object) -> object:
        if isinstance(part, Raw):
            raws.append(part)
            return f"@raw{len(raws) - 1}@"
        if isinstance(part, dict):
            return {key: marked(one) for key, one in part.items()}
        return [marked(one) for one in part] if isinstance(part, list) else part

    text = json.dumps(marked(value), ensure_ascii=False)
    for i, raw in enumerate(raws):
        text = text.replace(f'"@raw{i}@"', raw)
    return text.encode("utf-8", "surrogatepass")


def mutated(rng: random.Random) -> HostileRequest:
    """A valid body in which a few values are replaced, removed, repeated or added."""
    target, body = rng.choice(
        [("/v1/rank", good_rank(rng)), ("/v1/rank", good_rank(rng)), ("/v1/items", good_item(rng))]
    )
    for _ in range(rng.randrange(1, 4)):
        *way, last = rng.choice(paths_in(body))
        part = body
        for key in way:
            part = part[key]
        choice = rng.randrange(6)
        if choice == 0:
            del part[last]
        elif choice == 1 and isinstance(part, dict):
            part[rng.choice(["url", "__class__", "$ref", "", "item_id ", "a" * 500])] = rng.choice(HOSTILE)(rng)
        elif choice == 2 and isinstance(part, list):
            part += part * 50
        else:
            part[last] = rng.choice(HOSTILE)(rng)
        if not paths_in(body):
            break
    raw = to_json(body)
    if rng.random() < 0.1:
        raw = raw.replace(b'"item_id"', b'"item_id": "x", "item_id"', 1)
    return HostileRequest("mutated", target=target, body=raw)


def broken_bytes(rng: random.Random) -> HostileRequest:
    raw = to_json(good_rank(rng))
    choice = rng.randrange(5)
    if choice == 0:
        raw = flipped(rng, raw)
    elif choice == 1:
        raw = raw[: rng.randrange(len(raw))]
    elif choice == 2:
        raw = raw.decode().encode(rng.choice(["utf-16", "utf-32", "utf-8-sig", "utf-7", "cp037"]))
    elif choice == 3:
        raw = rng.choice(
            [b"", b"\0", b"null", b"1", b'"a"', b"[]", b"{}", b"{}{}", b"true", b"NaN", b"//", b"\xef\xbb\xbf"]
        )
    else:
        raw = rng.randbytes(rng.randrange(300))
    return HostileRequest("broken bytes", target=rng.choice(["/v1/rank", "/v1/items"]), body=raw)


def huge(rng: random.Random) -> HostileRequest:
    body = rng.choice(
        [
            lambda: b" " * 250_000,
            lambda: b'{"candidates":[' + b'{"item_id":"a"},' * 10_000 + b'{"item_id":"a"}]}',
            lambda: b'{"candidates":[' + b"1," * 60_000 + b"1]}",
            lambda: b'{"candidates":[{"item_id":"a"}],"history":[' + b"{}," * 40_000 + b"{}]}",
            lambda: b'{"candidates":[{"item_id":"a"}],' + b",".join(b'"k%d":0' % i for i in range(15_000)) + b"}",
            lambda: b'{"candidates":[{"item_id":"' + b"a" * 150_000 + b'"}]}',
            lambda: b'{"candidates":[{"title":"' + b"\\u0041" * 30_000 + b'"}]}',
            lambda: b'{"' + b"k" * 150_000 + b'":1}',
            lambda: (
                b'{"candidates":[{"item_id":"a"}],"context":{' + b",".join(b'"k%d":0' % i for i in range(9_000)) + b"}}"
            ),
            lambda: b'{"requests":[' + b'{"candidates":[{"item_id":"a"}]},' * 5_000 + b"{}]}",
        ]
    )()
    return HostileRequest("huge", body=body)


def images(rng: random.Random) -> HostileRequest:
    shown = encoded(strange_image(rng))
    if rng.random() < 0.5:
        return HostileRequest(
            "image", target="/v1/items", body=json.dumps({"item_id": "fuzz-p", "image": shown}).encode()
        )
    return HostileRequest("image", body=json.dumps({"candidates": [{"item_id": IDS[0]}, {"image": shown}]}).encode())


def arrow(rng: random.Random) -> HostileRequest:
    body = packed([as_rows(some_request(rng)) for _ in range(rng.randrange(1, 3))])
    body = rng.choice([lambda: flipped(rng, body), lambda: body[: rng.randrange(len(body))], lambda: body * 2])()
    return HostileRequest("arrow", headers=[("content-type", ARROW.encode())], body=body)


def forms(rng: random.Random) -> HostileRequest:
    """Other content types, with a matching or another body."""
    multipart = (
        b'--x\r\ncontent-disposition: form-data; name="item_id"\r\n\r\nfuzz\r\n--x\r\ncontent-disposition: form-data'
    )
    multipart += (
        b'; name="image"; filename="../../a.png"\r\ncontent-type: image/png\r\n\r\n' + png_image(5) + b"\r\n--x--\r\n"
    )
    kind, body = rng.choice(
        [
            ("multipart/form-data; boundary=x", multipart[: rng.randrange(len(multipart))]),
            ("multipart/form-data; boundary=x", flipped(rng, multipart)),
            ("multipart/form-data", multipart),
            ("multipart/form-data; boundary=" + "y" * 300, multipart),
            ("multipart/form-data; boundary=x", b"--x\r\n" * 5_000),
            ("application/x-www-form-urlencoded", b"item_id=a&" * 999),
            ("text/plain", to_json(good_rank(rng))),
            ("application/json; charset=utf-16", to_json(good_rank(rng)).decode().encode("utf-16")),
            ("application/json;" * 20, to_json(good_rank(rng))),
            ("application/xml", b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><x>&a;</x>'),
            ("application/vnd.api+json", to_json(good_rank(rng))),
            ("", to_json(good_rank(rng))),
            ("\xff/\xfe", to_json(good_rank(rng))),
            (ARROW, to_json(good_rank(rng))),
        ]
    )
    return HostileRequest(
        "form",
        target=rng.choice(["/v1/rank", "/v1/items"]),
        headers=[("content-type", kind.encode("latin-1"))],
        body=body,
    )


def headers(rng: random.Random) -> HostileRequest:
    """A valid body with invalid headers."""
    name, value = rng.choice(
        [
            ("content-encoding", b"gzip"),
            ("content-encoding", b"br, gzip"),
            ("authorization", b"Bearer \xff\xfe\x00"[:-1]),
            ("authorization", b"Bearer " + b"a" * 5_000),
            ("accept", b"text/html;q=\xff"),
            ("accept-encoding", b"*;q=nan"),
            ("x-session-id", b"\xff\xfe"),
            ("x-request-id", b"\xff" * 90),
            ("x-request-id", b"a" * 3_000),
            ("traceparent", b"00-zz-zz-zz"),
            ("serve_multiplexed_model_id", b"\xff"),
            ("x-forwarded-for", b"127.0.0.1, \xff"),
            ("x-forwarded-host", b"evil.example"),
            ("cookie", b"a=b; " * 500),
            ("expect", b"100-continue"),
            ("expect", b"the-unexpected"),
            ("upgrade", b"websocket"),
            ("upgrade", b"h2c"),
            ("connection", b"close, content-length"),
            ("range", b"bytes=0-,0-,0-"),
            ("origin", b"https://evil.example"),
            ("host", b"evil.example\xff"),
            ("x-http-method-override", b"DELETE"),
            ("content-length", b"99999999999999999999"),
        ]
    )
    body = to_json(good_rank(rng))
    if value == b"gzip":
        body = gzip.compress(b"\0" * 5_000_000)
    fields = [("content-type", JSON.encode()), (name, value)]
    return HostileRequest(
        "header", headers=fields * rng.choice((1, 1, 40)) if name != "content-length" else fields, body=body
    )


def targets(rng: random.Random) -> HostileRequest:
    target = rng.choice(
        [
            "/v1/rank/",
            "//v1/rank",
            "/v1/rank?" + "a=b&" * 999,
            "/v1/../v1/rank",
            "/%2e%2e/%2e%2e/etc/passwd",
            "/v1/items/%00",
            "/v1/items/" + "a" * 3_000,
            "/docs/../openapi.json",
            "/docs/__init__.py",
            "/docs/%2e%2e%2fmain.py",
            "/console/../v1",
            "/-/routes",
            "/-/healthz",
            "/metrics",
            "/v1/items/\u00ff".encode().decode("latin-1"),
            "/v1/items/a%ff%fe/neighbors",
            "/v1/items/a/neighbors?k=-1",
            "/v1/items/a/neighbors?k=1e9",
            "/v1/items/a/neighbors?k=nan",
            "*",
            "/" + "a/" * 900,
        ]
    )
    method = rng.choice(["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "POST", "PROPFIND"])
    body = to_json(good_rank(rng)) if rng.random() < 0.3 else b""
    return HostileRequest("target", method=method, target=target, body=body)


def not_http(rng: random.Random) -> HostileRequest:
    body = to_json(good_rank(rng))
    head = b"POST /v1/rank HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
    wire = rng.choice(
        [
            b"\x16\x03\x01" + rng.randbytes(90),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + rng.randbytes(30),
            b"GET /v1/rank\r\n\r\n",
            b"GET http://evil.example/v1/rank HTTP/1.1\r\nhost: a\r\n\r\n",
            b"POST /v1/rank HTTP/9.9\r\nhost: a\r\n\r\n",
            b"\r\n" * 99 + b"GET / HTTP/1.1\r\n\r\n",
            b"GET /\0 HTTP/1.1\r\nhost: a\r\n\r\n",
            b"GET / HTTP/1.1\r\nhost: a\r\n" + b"a" * 70_000 + b": b\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 2_000 + b"\r\n",
            head + b"content-length: 5\r\ncontent-length: 6\r\n\r\n" + body,
            head + b"content-length: -5\r\n\r\n" + body,
            head + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + body,
            head + b"transfer-encoding: chunked\r\n\r\nzz\r\n" + body,
            head + b"transfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n" + body,
            head + b"transfer-encoding: chunked, identity\r\n\r\n" + body,
            head + b"transfer-encoding: chunked\r\n\r\n" + b"1\r\n{\r\n" * 500 + b"0\r\n\r\n",
            head + b"bad header\r\n\r\n" + body,
            head + b" folded: a\r\n b\r\ncontent-length: 2\r\n\r\n{}",
            rng.randbytes(500),
        ]
    )
    return HostileRequest("not http", wire=wire)


def disconnecting(rng: random.Random) -> HostileRequest:
    """A client that disconnects before it has sent everything."""
    body = to_json(good_rank(rng))
    return HostileRequest("disconnect", body=body, cut=rng.randrange(1, len(body)))


FAMILIES = [mutated] * 8 + [
    broken_bytes,
    huge,
    images,
    arrow,
    arrow,
    forms,
    headers,
    headers,
    targets,
    not_http,
    disconnecting,
]


def slow_request(number: int) -> HostileRequest:
    """A client that sends one byte at a time."""
    rng = random.Random(f"{SEED}:slow:{number}")
    return HostileRequest("slow", body=to_json(good_rank(rng)), drip=0.2)


if __name__ == "__main__":
    sys.stdout.buffer.write(hostile_request(int(sys.argv[1])).wire_bytes)
