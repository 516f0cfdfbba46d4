"""Ten thousand hostile requests to a real server with real tiny models, which then ranks as before."""

import asyncio
import json
import time

import httpx
import numpy as np
import psutil
import pytest
import ray
import schemathesis
from ray.util import list_named_actors

from coldstart.registry import Registry, promote, resolve
from coldstart.serving import deploy, shutdown
from coldstart.serving.golden import golden_figures
from coldstart.serving.tokens import new_token
from tests.serving.fuzz import INTERNALS, Wrong, slow, wrong
from tests.serving.test_application import free_port
from tests.serving.test_fuzz import conform
from tests.serving.tiny import IDS, register_run, tiny_recipe, write_run

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]

REQUESTS, SLOW, CLIENTS = 10_000, 40, 16
BODY_S = 2.0
FAR_TOO_LARGE = 400_000
"""Twice the limit of a body: what sends on after that is cut off."""
BY_THE_SERVER = {400, 403, 404, 405, 408, 413, 414, 426, 431}
"""What the HTTP server itself may say, in words of its own, to what never becomes a request."""

HTTP_2_SETTINGS = b"\x04"
"""Type of the first frame of whoever speaks it."""


@pytest.fixture(scope="module")
def served(local_ray, tmp_path_factory):
    """URL and token of a server."""
    runs = tmp_path_factory.mktemp("runs")
    token = new_token(runs / "tokens", "fuzz")
    security = {"tokens_file": runs / "tokens", "requests_per_s": 100_000, "burst": 100_000, "body_timeout_s": BODY_S}
    recipe = tiny_recipe(runs, "fuzzed", port=free_port(), security=security)
    write_run(recipe)
    registry = Registry(recipe.tracking_uri, recipe.project)
    register_run(recipe, registry)
    promote(registry, "adaptor", 1, recipe.registry, measure=golden_figures)
    yield deploy(resolve(registry, "champion"), recipe.serving, recipe.run_dir / "store", data=recipe.data), token
    shutdown()


@pytest.fixture
def client(served):
    url, token = served
    with httpx.Client(base_url=url, timeout=60, headers={"authorization": f"Bearer {token}"}) as client:
        yield client


def scores(client) -> np.ndarray:
    body = {"candidates": [{"item_id": name} for name in IDS], "now": 5000}
    body["history"] = [{"item_id": IDS[2], "label": 1, "timestamp": 1000}]
    return np.array(client.post("/v1/rank", json=body).raise_for_status().json()["scores"])


def replicas() -> set[str]:
    return {actor["name"] for actor in list_named_actors(all_namespaces=True) if actor["namespace"] == "serve"}


def memory() -> int:
    """Bytes held by all replicas."""
    return sum(process.memory_info().rss for process in psutil.process_iter() if b"ServeReplica" in _title(process))


def _title(process: psutil.Process) -> bytes:
    try:
        return " ".join(process.cmdline()).encode(errors="replace")
    except psutil.Error:
        return b""


async def send(request: Wrong, port: int, token: str) -> bytes:
    """All that the server says until it closes, to a request on a connection of its own."""
    if not any(name == "authorization" for name, _ in request.headers):
        request.headers.append(("authorization", f"Bearer {token}".encode()))
    request.headers.append(("connection", b"close"))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    wire = request.over_the_wire
    try:
        if request.drip:
            head = len(wire) - len(request.body)
            writer.write(wire[:head])
            for byte in request.body:
                writer.write(bytes([byte]))
                await asyncio.sleep(request.drip)
                if reader.at_eof() or reader._buffer:
                    break
            # Who still owes the rest of a body is answered, and need not be hung up on at once.
            return await asyncio.wait_for(reader.read(65_536), 60)
        writer.write(wire[: len(wire) - request.cut])
        if request.cut:
            return b""
        if request.wire is not None and writer.can_write_eof():
            writer.write_eof()
        return await asyncio.wait_for(reader.read(), 60)
    except TimeoutError:
        raise
    except OSError:
        return bytes(reader._buffer)
    finally:
        writer.close()


def problem(request: Wrong, said: bytes) -> str | None:
    """What is wrong with an answer, if anything."""
    if not said:
        gone = request.cut or request.wire is not None or len(request.body) > FAR_TOO_LARGE
        return None if gone else "no answer"
    head, _, body = said.partition(b"\r\n\r\n")
    if request.wire is not None and request.wire.startswith(b"PRI ") and said[3:4] == HTTP_2_SETTINGS:
        return None  # HAProxy speaks HTTP/2, too.
    if not head.startswith(b"HTTP/1."):
        return "not HTTP"
    status = int(head.split(b" ", 2)[1])
    while status == 100:
        head, _, body = body.partition(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
    if status >= 500 and not (request.what == "not http" and status in (501, 505)):
        return f"status {status}: {body[:300]!r}"
    if INTERNALS.search(said):
        return f"internals: {said[:500]!r}"
    if status >= 400 and body and request.method != "HEAD":
        try:
            if set(json.loads(body)) != {"error"}:
                return f"another body: {body[:300]!r}"
        except ValueError:
            if status not in BY_THE_SERVER or request.what not in ("not http", "header", "target", "slow", "form"):
                return f"status {status} with another body: {body[:300]!r}"
    if request.drip and status != 408:
        return f"a slow client got {status}"
    return None


async def attack(port: int, token: str, requests: list[tuple[str, Wrong]], at_once: int) -> list[str]:
    """Sends all; answers the problems, each with the name of the request that had it."""
    gate, problems = asyncio.Semaphore(at_once), []

    async def one(name: str, request: Wrong) -> None:
        async with gate:
            try:
                found = problem(request, await send(request, port, token))
            except TimeoutError:
                found = "no answer within 60 s"
        if found:
            problems.append(f"{name} ({request.what}): {found}")

    await asyncio.gather(*(one(name, request) for name, request in requests))
    return problems


def test_ten_thousand_hostile_requests(served, client):
    url, token = served
    port = httpx.URL(url).port
    before, standing = scores(client), replicas()
    problems, began, held = [], time.monotonic(), []
    for first in range(0, REQUESTS, 1000):
        part = [(f"request {number}", wrong(number)) for number in range(first, first + 1000)]
        problems += asyncio.run(attack(port, token, part, CLIENTS))
        held.append(memory())
        np.testing.assert_allclose(scores(client), before, atol=1e-6)
        assert len(problems) < 20, "\n".join(problems)
    print(f"{REQUESTS} requests in {time.monotonic() - began:.0f} s; MB held: {[round(m / 1e6) for m in held]}")
    assert not problems, "\n".join(problems)
    assert replicas() == standing, "a replica died"
    assert held[-1] < 1.3 * held[1]


def test_slow_clients_hold_nobody_up(served, client):
    url, token = served
    before = scores(client)

    async def both() -> list[str]:
        slowly = [(f"slow {number}", slow(number)) for number in range(SLOW)]
        attacking = asyncio.create_task(attack(httpx.URL(url).port, token, slowly, SLOW))
        await asyncio.sleep(BODY_S / 4)
        for _ in range(5):
            np.testing.assert_allclose(await asyncio.to_thread(scores, client), before, atol=1e-6)
        return await attacking

    assert asyncio.run(both()) == []


def test_the_api_is_what_it_says_through_serve(served):
    url, token = served
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    assert conform(schema, 60, headers={"authorization": f"Bearer {token}"}) > 400


def test_nobody_is_let_in_without_a_token(served):
    url, _ = served
    for path in ("/v1/rank", "/v1/items"):
        assert httpx.post(f"{url}{path}", json={}).status_code == 401
    assert httpx.get(f"{url}/v1/release").status_code == 401
    assert httpx.get(f"{url}/readyz").status_code == 200
    assert ray.is_initialized()
