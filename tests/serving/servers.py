"""A Redis server for tests, with its own directory and a free port."""

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from coldstart.config.recipe import Store
from tests.registry.servers import free_port

PROGRAM = shutil.which("redis-server") or shutil.which("valkey-server")


@contextmanager
def redis_store(*, appendonly: bool = True) -> Iterator[Store]:
    """Runs a server inside the block; skips the test if none is installed."""
    if PROGRAM is None:
        pytest.skip("no redis-server on this machine (Debian and Ubuntu: apt-get install redis-server)")
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        arguments = {"port": port, "bind": "127.0.0.1", "dir": directory, "save": "", "requirepass": "secret"}
        options = [part for name, value in arguments.items() for part in (f"--{name}", str(value))]
        options += ["--appendonly", "yes" if appendonly else "no"]
        server = subprocess.Popen([PROGRAM, *options], stdout=subprocess.DEVNULL)
        password = Path(directory) / "password"
        password.write_text("secret\n")
        try:
            _wait(port)
            yield Store(kind="redis", redis_url=f"redis://127.0.0.1:{port}/0", redis_password_file=password)
        finally:
            server.terminate()
            server.wait(10)


def _wait(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.02)
