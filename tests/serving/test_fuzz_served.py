"""Ten thousand hostile requests to a real server with tiny models; afterwards it must rank as before."""

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
from coldstart.serving.api.tokens import new_token
from coldstart.serving.core.golden_requests import golden_metrics
from coldstart.serving.deployment.application import GatewayInputs, deploy, shutdown
from tests.serving.deployment.test_application import free_port
from tests.serving.fuzz import INTERNALS, HostileRequest, hostile_request, slow_request
from tests.serving.test_fuzz import conform
from tests.serving.tiny import IDS, register_run, tiny_recipe, write_run

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]

REQUESTS, SLOW, CLIENTS = 10_000, 40, 16
BODY_S = 2.0
FAR_TOO_LARGE = 400_000
"""Twice the body limit: the server closes connections that send more."""
SERVER_STATUSES = {400, 403, 404, 405, 408, 413, 414, 426, 431}
"""Statuses of the HTTP server itself, with its own body, for bytes that are no valid request."""

HTTP_2_SETTINGS = b"\x04"
"""Type of the first frame of an HTTP/2 server."""


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
    promote(registry, 1, recipe.registry, measure=golden_metrics)
    yield (
        deploy(
            resolve(registry, "champion"), recipe.serving, recipe.run_dir / "store", inputs=GatewayInputs(recipe.data)
        ),
        token,
    )
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
    """Memory of all replicas, bytes."""
    return sum(process.memory_info().rss for process in psutil.process_iter() if b"ServeReplica" in _title(process))


def _title(process: psutil.Process) -> bytes:
    try:
        return " ".join(process.cmdline()).encode(errors="replace")
    except psutil.Error:
        return b""


async def send(request: HostileRequest, port: int, token: str) -> bytes:
    """The bytes that the server sends until it closes; each request has its own connection."""
    if not any(name == "authorization" for name, _ in request.headers):
        request.headers.append(("authorization", f"Bearer {token}".encode()))
    request.headers.append(("connection", b"close"))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    wire = request.wire_bytes
    try:
        if request.drip:
            head = len(wire) - len(request.body)
            writer.write(wire[:head])
            for byte in request.body:
                writer.write(bytes([byte]))
                await asyncio.sleep(request.drip)
                if reader.at_eof() or reader._buffer:
                    break
            # The server responds before it has the whole body and may close the connection later.
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


def problem(request: HostileRequest, response: bytes) -> str | None:
    """What is wrong with a response; None if nothing is."""
    if not response:
        gone = request.cut or request.wire is not None or len(request.body) > FAR_TOO_LARGE
        return None if gone else "no answer"
    head, _, body = response.partition(b"\r\n\r\n")
    if request.wire is not None and request.wire.startswith(b"PRI ") and response[3:4] == HTTP_2_SETTINGS:
        return None  # HAProxy also supports HTTP/2.
    if not head.startswith(b"HTTP/1."):
        return "not HTTP"
    status = int(head.split(b" ", 2)[1])
    while status == 100:
        head, _, body = body.partition(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
    if status >= 500 and not (request.family == "not http" and status in (501, 505)):
        return f"status {status}: {body[:300]!r}"
    if INTERNALS.search(response):
        return f"internals: {response[:500]!r}"
    if status >= 400 and body and request.method != "HEAD":
        try:
            if set(json.loads(body)) != {"error"}:
                return f"another body: {body[:300]!r}"
        except ValueError:
            if status not in SERVER_STATUSES or request.family not in ("not http", "header", "target", "slow", "form"):
                return f"status {status} with another body: {body[:300]!r}"
    if request.drip and status != 408:
        return f"a slow client got {status}"
    return None


async def attack(port: int, token: str, requests: list[tuple[str, HostileRequest]], concurrency: int) -> list[str]:
    """Sends all requests; returns the problems, each with the name of its request."""
    gate, problems = asyncio.Semaphore(concurrency), []

    async def one(name: str, request: HostileRequest) -> None:
        async with gate:
            try:
                found = problem(request, await send(request, port, token))
            except TimeoutError:
                found = "no answer within 60 s"
        if found:
            problems.append(f"{name} ({request.family}): {found}")

    await asyncio.gather(*(one(name, request) for name, request in requests))
    return problems


def test_ten_thousand_hostile_requests(served, client):
    url, token = served
    port = httpx.URL(url).port
    before, replicas_before = scores(client), replicas()
    problems, began, memory_bytes = [], time.monotonic(), []
    for first in range(0, REQUESTS, 1000):
        part = [(f"request {number}", hostile_request(number)) for number in range(first, first + 1000)]
        problems += asyncio.run(attack(port, token, part, CLIENTS))
        memory_bytes.append(memory())
        np.testing.assert_allclose(scores(client), before, atol=1e-6)
        assert len(problems) < 20, "\n".join(problems)
    print(f"{REQUESTS} requests in {time.monotonic() - began:.0f} s; MB: {[round(m / 1e6) for m in memory_bytes]}")
    assert not problems, "\n".join(problems)
    assert replicas() == replicas_before, "a replica died"
    assert memory_bytes[-1] < 1.3 * memory_bytes[1]


def test_slow_clients_do_not_delay_others(served, client):
    url, token = served
    before = scores(client)

    async def both() -> list[str]:
        slowly = [(f"slow {number}", slow_request(number)) for number in range(SLOW)]
        attacking = asyncio.create_task(attack(httpx.URL(url).port, token, slowly, SLOW))
        await asyncio.sleep(BODY_S / 4)
        for _ in range(5):
            np.testing.assert_allclose(await asyncio.to_thread(scores, client), before, atol=1e-6)
        return await attacking

    assert asyncio.run(both()) == []


def test_the_api_conforms_to_its_schema_through_serve(served):
    url, token = served
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    assert conform(schema, 60, headers={"authorization": f"Bearer {token}"}) > 400


def test_requests_without_a_token_are_refused(served):
    url, _ = served
    for path in ("/v1/rank", "/v1/items"):
        assert httpx.post(f"{url}{path}", json={}).status_code == 401
    assert httpx.get(f"{url}/v1/release").status_code == 401
    assert httpx.get(f"{url}/readyz").status_code == 200
    assert ray.is_initialized()
