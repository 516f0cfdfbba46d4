"""The head that `cluster/local/up.sh` starts, and a client of it."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


@contextmanager
def local_head(home: Path) -> Iterator[dict[str, str]]:
    """The environment of a client of a running head, whose token lies in a home of its own."""
    port, dashboard = free_ports(2)
    names = {"RAY_PORT": str(port), "DASHBOARD_PORT": str(dashboard), "HOME": str(home), "RAY_AUTH_MODE": "token"}
    names["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{dashboard}"
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= names | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run([ROOT / "cluster/local/up.sh"], env=environment, check=True, timeout=240)
    try:
        yield environment
    finally:
        subprocess.run([ROOT / "cluster/local/down.sh"], env=environment, check=True, timeout=120)


def run_coldstart(
    environment: dict[str, str], *arguments: str, cwd: Path = ROOT, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs the command as a client of a cluster."""
    command = shutil.which("coldstart", path=environment["PATH"])
    assert command
    return subprocess.run(
        [command, *arguments], cwd=cwd, env=environment | variables, capture_output=True, text=True, check=False
    )
