"""Nothing of a local cluster can be reached from another machine."""

import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

import psutil
import pytest

from tests.cluster.local_head import ROOT, local_head

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

WORK = """
import ray
ray.init(address="auto", log_to_driver=False)
ray.get(ray.remote(lambda: 1).remote())
print("ready", flush=True)
input()
"""


def listening(pid: int) -> set[str]:
    """Addresses on which a process and its descendants listen."""
    found = set()
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        try:
            connections = process.net_connections(kind="tcp")
        except psutil.NoSuchProcess:
            continue
        found |= {connection.laddr.ip for connection in connections if connection.status == psutil.CONN_LISTEN}
    return found


def test_a_local_cluster_listens_on_loopback_only(tmp_path: Path) -> None:
    with local_head(tmp_path) as head:
        address = f"127.0.0.1:{head['RAY_PORT']}"
        driver = subprocess.Popen(
            [sys.executable, "-c", WORK],
            env=head | {"RAY_ADDRESS": address},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            assert driver.stdout is not None
            assert driver.stdout.readline() == b"ready\n"
            pid = int((ROOT / "runs" / f"ray-head-{head['DASHBOARD_PORT']}.pid").read_text())
            found = listening(pid) | listening(driver.pid)
        finally:
            driver.communicate(b"\n", timeout=120)
    assert found
    assert {address for address in found if not ip_address(address).is_loopback} == set()
