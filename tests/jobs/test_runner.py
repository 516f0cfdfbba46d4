"""An address that is not a Ray head ends within seconds with the fix."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from coldstart.config import Recipe, UserError
from coldstart.jobs.runner import ray_cluster, trained_by


@pytest.fixture(params=["silent", "http", "closes"])
def other_server(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server that is not Ray: it says nothing, answers as HTTP/1, or closes the connection."""
    listener = socket.create_server(("127.0.0.1", 0))
    kept: list[socket.socket] = []

    def serve() -> None:
        connection, _ = listener.accept()
        kept.append(connection)
        if request.param == "http":
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        if request.param == "closes":
            connection.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    thread.join(5)
    for connection in kept:
        connection.close()
    listener.close()


def refusal(address: str) -> str:
    with pytest.raises(UserError) as refused, ray_cluster(Recipe(name="mine"), address):
        pass
    return str(refused.value)


def test_a_port_that_is_not_rays_is_named_within_seconds(other_server: str) -> None:
    began = time.monotonic()
    assert f"what listens at {other_server} is not a Ray head" in refusal(other_server)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://127.0.0.1:8265", ["is the address of a dashboard", "host:port of the Ray head", "coldstart submit"]),
        ("https://ray.example", ["is the address of a dashboard"]),
        ("10.0.0.1", ["is not host:port", "--address 10.0.0.5:6379"]),
        ("10.0.0.1:port", ["is not host:port"]),
        ("127.0.0.1:9", ["no Ray cluster answers at 127.0.0.1:9", "start one"]),
    ],
)
def test_other_addresses_are_refused_with_the_fix(address: str, words: list[str]) -> None:
    message = refusal(address)
    for word in words:
        assert word in message


def test_the_address_of_the_environment_is_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    with pytest.raises(UserError, match="RAY_ADDRESS"), ray_cluster(Recipe(name="mine")):
        pass


def test_a_local_ray_counts_the_cpus_that_are_allowed() -> None:
    """Affinity and cgroup quotas count, not the machine: joblib's count follows both."""
    program = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); import joblib; print(joblib.cpu_count())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


def test_the_stage_that_trains_a_model_follows_from_the_method_and_its_mode() -> None:
    assert trained_by(Recipe(name="mine")) == {
        "ranker": "train_ranker",
        "encoder": "align_coarse",
        "scorer": "align_fine",
    }
    joint = Recipe.model_validate({"name": "mine", "method": {"mode": "joint"}})
    assert trained_by(joint)["scorer"] == "align_joint"
