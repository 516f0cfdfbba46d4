"""`coldstart submit` against a real Ray head with token auth, started by the script that the README names."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from coldstart.config import read_artifact

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a client of a head that `cluster/local/up.sh` started; its token lies in a home of its own."""
    port, dashboard = free_ports(2)
    names = {"RAY_PORT": str(port), "DASHBOARD_PORT": str(dashboard), "HOME": str(tmp_path_factory.mktemp("home"))}
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= names | {"RAY_AUTH_MODE": "token", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run([ROOT / "cluster/local/up.sh"], env=environment, check=True, timeout=120)
    try:
        yield environment
    finally:
        subprocess.run([ROOT / "cluster/local/down.sh"], env=environment, check=True, timeout=60)


def submit(head: dict[str, str], *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = shutil.which("coldstart", path=head["PATH"])
    assert command
    address = ["--address", f"http://127.0.0.1:{head['DASHBOARD_PORT']}"]
    return subprocess.run(
        [command, "submit", *arguments, *address], cwd=ROOT, env=head | variables, capture_output=True, text=True
    )


def test_prepare_runs_on_the_head_and_leaves_its_artifact(head: dict[str, str], tmp_path: Path) -> None:
    done = submit(head, "prepare", "--recipe", "tests/smoke.yaml", "--set", f"paths.runs={tmp_path}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout
    artifact = read_artifact(tmp_path / "smoke" / "dataset", "dataset")
    assert artifact.metadata["items"] == 600


def test_a_failed_job_is_exit_code_1_with_its_last_lines(head: dict[str, str], tmp_path: Path) -> None:
    files = ["--set", "data.source=files", "--set", f"data.files.root={tmp_path / 'nowhere'}"]
    done = submit(head, "prepare", "--set", f"paths.runs={tmp_path}", *files, "--json")
    assert done.returncode == 1, done.stdout + done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["status"] == "FAILED"
    assert any("nowhere" in line for line in outcome["last_lines"])
    assert "nowhere" in done.stderr


def test_a_client_without_the_token_is_refused_with_the_fix(head: dict[str, str], tmp_path: Path) -> None:
    done = submit(
        head, "prepare", "--set", f"paths.runs={tmp_path}", RAY_AUTH_MODE="disabled", HOME=str(tmp_path / "home")
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "RAY_AUTH_MODE=token" in done.stderr
    assert "Traceback" not in done.stderr
