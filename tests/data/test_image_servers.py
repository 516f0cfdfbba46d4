"""Images at web addresses and in S3: read from real servers on this machine."""

import gzip
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest

from coldstart.config.recipe import Files, Images
from coldstart.data import image_files
from coldstart.data.image_files import ImageFiles
from tests.registry.servers import Moto

MAX_BYTES = 100_000


class WebServer(ThreadingHTTPServer):
    """Counts requests, bytes that were sent, and slow requests at a time."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: Counter[str] = Counter()
        self.sent = self.active = self.most_active = 0
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: Any) -> None:
        """Clients that go away are part of the tests."""


class Handler(BaseHTTPRequestHandler):
    server: WebServer

    def do_GET(self) -> None:
        server, name = self.server, self.path.strip("/").split("?")[0]
        with server.lock:
            server.requests[name] += 1
        getattr(self, f"answer_{name.split('-')[0]}")(name)

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def answer_good(self, name: str) -> None:
        self.answer(200, name.encode())

    def answer_status(self, name: str) -> None:
        self.answer(int(name.split("-")[1]), b"sorry")

    def answer_busy(self, name: str) -> None:
        self.answer(200 if self.server.requests[name] > 3 else 503, b"at last")

    def answer_empty(self, name: str) -> None:
        self.answer(200)

    def answer_full(self, name: str) -> None:
        self.answer(200, bytes(MAX_BYTES))

    def answer_compressed(self, name: str) -> None:
        self.answer(200, gzip.compress(bytes(10_000_000)), Content_Encoding="gzip")

    def answer_cut(self, name: str) -> None:
        self.answer(200, b"half", Content_Length="8")

    def answer_endless(self, name: str) -> None:
        self.send_response(200)
        self.end_headers()
        while not self.server.closing.is_set():
            self.wfile.write(bytes(10_000))
            self.server.sent += 10_000

    def answer_drip(self, name: str) -> None:
        self.send_response(200)
        self.end_headers()
        while not self.server.closing.wait(0.1):
            self.wfile.write(b"x")
            self.wfile.flush()

    def answer_silent(self, name: str) -> None:
        self.server.closing.wait()

    def answer_slow(self, name: str) -> None:
        server = self.server
        with server.lock:
            server.active += 1
            server.most_active = max(server.most_active, server.active)
        time.sleep(0.1)
        # Before the answer: the client may send its next request as soon as it has this one.
        with server.lock:
            server.active -= 1
        self.answer(200, b"slow")

    def answer_moved(self, name: str) -> None:
        targets = {
            "here": "/good-1",
            "loop": "/moved-loop",
            "ftp": "ftp://127.0.0.1/a.png",
            "disk": "file:///etc/hosts",
        }
        self.answer(302, Location=targets[name.split("-")[1]])

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with WebServer() as server:
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()


Read = Callable[..., list[bytes | str]]


@pytest.fixture
def read(server: WebServer, tmp_path: Path) -> Read:
    def read(*names: str, **settings: Any) -> list[bytes | str]:
        reader = ImageFiles.of(Files(root=tmp_path, images=Images(**{"http": True, "retries": 1, **settings})))
        return reader.read([f"{server.url}/{name}" for name in names], MAX_BYTES)

    return read


def test_web_addresses_are_read_only_if_the_recipe_allows_it(server: WebServer, read: Read) -> None:
    assert read("good-1", http=False) == [image_files.WEB_ADDRESS]
    assert not server.requests
    assert read("good-1", "good-2?size=9", "good-1") == [b"good-1", b"good-2", b"good-1"]
    assert server.requests == {"good-1": 1, "good-2": 1}


@pytest.mark.parametrize("status", [204, 400, 401, 403, 404, 410])
def test_an_answer_that_will_not_change_is_final(server: WebServer, read: Read, status: int) -> None:
    assert read(f"status-{status}") == [f"image server answered {status}"]
    assert server.requests.total() == 1


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_an_answer_that_may_change_is_asked_for_again(server: WebServer, read: Read, status: int) -> None:
    expected = f"image could not be read after 2 tries: server answered {status}"
    assert read(f"status-{status}") == [expected]
    assert server.requests.total() == 2


def test_a_server_that_is_busy_for_a_moment_is_waited_for(server: WebServer, read: Read) -> None:
    started = time.monotonic()
    assert read("busy", retries=3) == [b"at last"]
    assert server.requests["busy"] == 4
    assert time.monotonic() - started > 0.25 + 0.5 + 1
    assert read("status-503", retries=0) == ["image could not be read after 1 tries: server answered 503"]


def test_a_body_is_read_up_to_the_limit(server: WebServer, read: Read) -> None:
    assert read("full", "endless") == [
        bytes(MAX_BYTES),
        f"image has more than {MAX_BYTES} bytes (data.max_image_bytes)",
    ]
    # Buffers of the two sockets hold some megabytes.
    assert server.sent < 20_000_000
    assert server.requests["endless"] == 1


def test_odd_bodies_have_a_reason(server: WebServer, read: Read) -> None:
    connection = "image could not be read after 2 tries: connection failed"
    assert read("empty", "compressed", "cut") == [image_files.EMPTY, image_files.COMPRESSED, connection]
    assert server.requests["compressed"] == 1
    assert server.requests["cut"] == 2


def test_few_redirects_are_followed_and_only_to_web_addresses(server: WebServer, read: Read) -> None:
    assert read("moved-here") == [b"good-1"]
    for name in ("moved-loop", "moved-ftp", "moved-disk"):
        server.requests.clear()
        assert read(name) == [image_files.BAD_REDIRECT]
        assert server.requests.total() == (4 if name == "moved-loop" else 1)


@pytest.mark.parametrize("name", ["silent", "drip"])
def test_a_server_that_does_not_finish_in_time_is_left(server: WebServer, read: Read, name: str) -> None:
    started = time.monotonic()
    assert read(name, timeout_s=0.4) == ["image could not be read after 2 tries: timeout"]
    assert 0.8 < time.monotonic() - started < 5
    assert server.requests[name] == 2


def test_at_most_so_many_requests_go_to_a_host_at_a_time(server: WebServer, read: Read) -> None:
    names = [f"slow-{number}" for number in range(12)]
    assert read(*names, concurrency=8, per_host=3) == [b"slow"] * 12
    assert server.most_active == 3
    server.most_active = 0
    assert read(*names, concurrency=5, per_host=8) == [b"slow"] * 12
    assert server.most_active == 5


def test_a_host_does_not_take_the_places_of_another(server: WebServer, tmp_path: Path) -> None:
    with WebServer() as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        reader = ImageFiles.of(Files(root=tmp_path, images=Images(http=True, concurrency=8, per_host=2)))
        addresses = [f"{one.url}/slow-{number}" for number in range(6) for one in (server, other)]
        assert reader.read(addresses, MAX_BYTES) == [b"slow"] * 12
        assert (server.most_active, other.most_active) == (2, 2)
        other.shutdown()


def test_addresses_that_lead_nowhere_have_a_reason(tmp_path: Path, server: WebServer) -> None:
    reader = ImageFiles.of(Files(root=tmp_path, images=Images(http=True, retries=1)))
    assert (
        reader.read(["http://", "http:///a.png", "http://[::1/a.png", "http://a:port/b"], MAX_BYTES)
        == [image_files.BAD_ADDRESS] * 4
    )
    server.shutdown()
    server.server_close()
    assert reader.read([f"{server.url}/good-1"], MAX_BYTES) == [
        "image could not be read after 2 tries: connection failed"
    ]


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Moto]:
    if find_spec("moto") is None:
        pytest.skip("moto is not installed: pip install -e '.[dev]'")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Moto(tmp_path) as s3:
        for name, value in s3.environment_of_clients.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ENDPOINT_URL", s3.uri)
        yield s3


def test_objects_in_s3_are_read_by_their_key(s3: Moto, tmp_path: Path) -> None:
    objects = {"shoes/a.png": b"a", "a%20b.png": b"literal", "large.png": bytes(MAX_BYTES + 1), "empty.png": b""}
    for key, body in (objects | {"é ?#.png": b"odd"}).items():
        headers = {"Content-Type": "image/png"}  # Moto takes urllib's default for a form without a body.
        request = Request(f"{s3.uri}/models/{quote(key)}", data=body, headers=headers, method="PUT")
        urlopen(request, timeout=10).close()
    expected = {
        "s3://models/shoes/a.png": b"a",
        "S3://models/shoes/a.png": b"a",
        "s3://models/a%20b.png": b"literal",
        "s3://models/é ?#.png": b"odd",
        "s3://models/large.png": f"image has more than {MAX_BYTES} bytes (data.max_image_bytes)",
        "s3://models/empty.png": image_files.EMPTY,
        "s3://models/none.png": image_files.NO_OBJECT,
        "s3://no-such-bucket/a.png": image_files.NO_OBJECT,
        "s3://models/a//b.png": image_files.BAD_ADDRESS,
    }
    reader = ImageFiles.of(Files(root=tmp_path))
    assert dict(zip(expected, reader.read(list(expected), MAX_BYTES), strict=True)) == expected
    s3.kill()
    assert reader.read(["s3://models/shoes/a.png"], MAX_BYTES) == [image_files.STORAGE]
