"""A TCP server that follows a script: respond, reset the connection, hang, or send a byte at a time."""

import json
import socket
import socketserver
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

RESET, SILENCE, TRICKLE = "reset", "silence", "trickle"


@dataclass
class ScriptedResponse:
    """One response of the script."""

    status: int
    body: object = None
    headers: dict[str, str] = field(default_factory=dict)

    def raw(self) -> bytes:
        body = json.dumps(self.body).encode() if not isinstance(self.body, bytes) else self.body
        lines = [f"HTTP/1.1 {self.status} -", f"content-length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([*lines, "", ""]).encode() + body


def error_response(status: int, code: str, **headers: str) -> ScriptedResponse:
    body = {"error": {"code": code, "message": "as scripted"}}
    return ScriptedResponse(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


class ScriptedServer(socketserver.ThreadingTCPServer):
    """Does the next step of `script` for each request; `requests` has head and body of every request."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, script: list[ScriptedResponse | str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script, self.requests, self.closing = deque(script), [], threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(socketserver.StreamRequestHandler):
    server: ScriptedServer

    def handle(self) -> None:
        while request := self._request():
            self.server.requests.append(request)
            step = self.server.script.popleft()
            if step == RESET:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                return
            if step == SILENCE:
                self.server.closing.wait(30)
                return
            if step == TRICKLE:
                self._trickle()
                return
            self.wfile.write(step.raw())

    def _request(self) -> tuple[str, bytes] | None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self.rfile.readline()
            if not line:
                return None
            head += line
        size = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        return head.decode(), self.rfile.read(int(size[0].split(b":")[1])) if size else b""

    def _trickle(self) -> None:
        try:
            self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
            while not self.server.closing.is_set():
                self.wfile.write(b" ")
                time.sleep(0.05)
        except OSError:
            return


@contextmanager
def scripted_server(*script: ScriptedResponse | str) -> Iterator[ScriptedServer]:
    with ScriptedServer(list(script)) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
