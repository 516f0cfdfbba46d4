"""Nothing of a local cluster can be reached from another machine."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.listening import addresses_beyond_loopback
from tests.cluster.local_head import ROOT, free_ports, local_head, run_coldstart

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

WORK = """
import sys
import ray
from ray import serve
from coldstart.config import Recipe
from coldstart.config.recipe import Serving
from coldstart.jobs.runner import ray_cluster
from coldstart.ray_compat.serve import listen_on_node_address
from coldstart.serving.deployment.ingress import start

@serve.deployment
class Hello:
    def __init__(self):
        listen_on_node_address()

    def __call__(self, request):
        return "hello"

with ray_cluster(Recipe(name="mine"), sys.argv[2] if len(sys.argv) > 2 else None, check=False):
    ray.get(ray.remote(lambda: 1).remote())
    start(Serving(port=int(sys.argv[1])), {})
    serve.run(Hello.bind())
    print("ready", flush=True)
    input()
    serve.shutdown()
"""


def driver(environment: dict[str, str] | None, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", WORK, *arguments]
    process = subprocess.Popen(command, env=environment, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    while line := process.stdout.readline():
        if line == b"ready\n":
            return process
    raise AssertionError(process.wait())


def test_a_local_ray_with_serve_listens_on_loopback_only() -> None:
    work = driver(None, str(free_ports(1)[0]))
    try:
        found = addresses_beyond_loopback(work.pid)
    finally:
        work.communicate(b"\n", timeout=120)
    assert found == {}


@pytest.mark.slow
def test_a_local_head_with_serve_listens_on_loopback_only_and_takes_drivers(tmp_path: Path) -> None:
    with local_head(tmp_path) as head:
        address = f"127.0.0.1:{head['RAY_PORT']}"
        for known_as in (address, "auto"):
            done = run_coldstart(head, "doctor", "--address", known_as, "--json")
            assert done.returncode == 0, done.stdout + done.stderr
        planned = run_coldstart(head, "plan", "demo", "--address", address)
        assert f"the memory of the accelerators at {address} (none) is not known" in planned.stderr, planned.stdout
        work = driver(head, str(free_ports(1)[0]), address)
        try:
            pid = int((ROOT / "runs" / f"ray-head-{head['DASHBOARD_PORT']}.pid").read_text())
            found = addresses_beyond_loopback(pid, work.pid)
        finally:
            work.communicate(b"\n", timeout=120)
    assert found == {}
