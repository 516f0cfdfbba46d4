"""HAProxy's files and ports belong to one Serve, and its pages listen on loopback."""

import socket
import socketserver
import subprocess
import threading
import time

import pytest

from coldstart.serving.deployment.ingress import _free_ports, _write_haproxy_program, haproxy_env

CONFIG = """
frontend prometheus
    bind :{metrics}
frontend http_frontend
    bind *:8000
listen stats
  bind *:{stats}
"""


def test_pages_listen_on_loopback_and_the_frontend_keeps_its_address(tmp_path):
    pages = _free_ports(2)
    program = _write_haproxy_program(tmp_path, pages)
    config = tmp_path / "node" / "haproxy.cfg"
    config.parent.mkdir()
    config.write_text(CONFIG.format(metrics=pages[0], stats=pages[1]))
    checked = subprocess.run([program, "-c", "-f", config], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    binds = [line.split()[1] for line in config.read_text().splitlines() if "bind" in line]
    assert binds == [f"127.0.0.1:{pages[0]}", "*:8000", f"127.0.0.1:{pages[1]}"]


class Replica(socketserver.ThreadingTCPServer):
    """Records request heads and answers all but the first, like a gateway that died during a request."""

    daemon_threads = True

    def __init__(self, heads: list[str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.heads = heads
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Handler(socketserver.StreamRequestHandler):
    server: Replica

    def handle(self) -> None:
        head = b"".join(iter(self.rfile.readline, b"\r\n")).decode("latin-1")
        self.rfile.read(2)
        self.server.heads.append(head.lower())
        if len(self.server.heads) > 1:
            self.wfile.write(b"HTTP/1.1 202 -\r\ncontent-length: 2\r\n\r\n{}")


RETRYING = """
defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
    option redispatch 1
    retry-on {retry_on}
frontend http_frontend
    bind 127.0.0.1:{port}
    default_backend gateways
backend gateways
    server one 127.0.0.1:{one}
    server two 127.0.0.1:{two}
"""


@pytest.mark.parametrize(
    ("path", "given"), [("/v1/feedback", {}), ("/v1/feedback", {"x-request-id": "mine"}), ("/v1/rank", {})]
)
def test_retried_feedback_keeps_its_request_id(tmp_path, path, given):
    pages = _free_ports(2)
    program, (port,) = _write_haproxy_program(tmp_path, pages), _free_ports(1)
    heads: list[str] = []
    retry_on = haproxy_env(tmp_path, program, pages)["RAY_SERVE_HAPROXY_RETRY_ON"]
    config = tmp_path / "haproxy.cfg"
    with Replica(heads) as one, Replica(heads) as two:
        places = {"one": one.server_address[1], "two": two.server_address[1]}
        config.write_text(RETRYING.format(port=port, retry_on=retry_on, **places))
        # Serve checks the file and then runs it, so the lines must not be added twice.
        checked = subprocess.run([program, "-c", "-f", config], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr
        with subprocess.Popen([program, "-db", "-f", config], stderr=subprocess.DEVNULL) as proxy:
            try:
                answer = _post(port, path, given)
            finally:
                proxy.terminate()
        one.shutdown()
        two.shutdown()
    assert " 202 " in answer
    assert config.read_text().count("set-header x-request-id") == 1
    ids = [head.partition("x-request-id: ")[2].split("\r\n")[0] for head in heads]
    assert len(ids) == 2
    assert ids[0] == ids[1]
    assert ids[0] == given.get("x-request-id", ids[0])
    assert bool(ids[0]) is path.endswith("feedback")


@pytest.mark.parametrize(
    ("name", "value", "passes"),
    [
        ("x-request-id", b"mine", True),
        ("x-request-id", b"\xff\xfe", False),
        ("x-request-id", b"a" * 65, False),
        ("x-session-id", b"\xff", False),
        ("serve_multiplexed_model_id", b"\xff", False),
        ("x-request-timeout-seconds", b"-1", False),
        ("x-request-disconnect-disabled", b"?1", False),
        ("cookie", b"\xff", True),
    ],
)
def test_headers_that_control_serve_are_removed(tmp_path, name, value, passes):
    pages = _free_ports(2)
    program, (port,) = _write_haproxy_program(tmp_path, pages), _free_ports(1)
    heads: list[str] = []
    config = tmp_path / "haproxy.cfg"
    with Replica(heads) as one:
        place = one.server_address[1]
        config.write_text(RETRYING.format(port=port, retry_on="none", one=place, two=place))
        with subprocess.Popen([program, "-db", "-f", config], stderr=subprocess.DEVNULL) as proxy:
            try:
                _post(port, "/v1/rank", {name: value.decode("latin-1")})
            finally:
                proxy.terminate()
        one.shutdown()
    assert (f"{name}: " in heads[0]) is passes


def _post(port: int, path: str, given: dict[str, str]) -> str:
    """Status line of the response. Head and body are sent at once: HAProxy retries only complete requests."""
    head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    deadline = time.monotonic() + 20
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
                connection.sendall(
                    f"POST {path} HTTP/1.1\r\nhost: x\r\n{head}content-length: 2\r\n\r\n{{}}".encode("latin-1")
                )
                return connection.makefile().readline()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_two_serves_on_one_machine_share_no_port_and_no_file(tmp_path):
    one, two = (haproxy_env(tmp_path / name, tmp_path / name / "haproxy", _free_ports(2)) for name in ("a", "b"))
    differ = {name for name in one if name.endswith(("_PORT", "_PATH", "_LOC", "_FILE", "_BASE"))}
    differ -= {name for name in differ if "DIRECT_INGRESS" in name}  # Each has a range; ports in use are skipped.
    assert differ
    assert all(one[name] != two[name] for name in differ)
