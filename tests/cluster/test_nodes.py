"""The nodes of the tests are separated as machines are; nothing of them is left when a test ends or dies."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.nodes import ROOT, Node, RayNodes, missing, ray_nodes, remove_leftovers

ANSWER = "import socket; socket.create_connection(('{}', 7000), 2).close()"
LISTEN = "import socket, time; s = socket.create_server(('0.0.0.0', 7000)); time.sleep(600)"


def reaches(node: Node, other: Node) -> bool:
    return node.run(sys.executable, "-c", ANSWER.format(other.address)).returncode == 0


def links() -> set[str]:
    listed = subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True, check=True).stdout
    return {line.split()[0] for line in listed.splitlines() if line.startswith(f"cs{os.getpid()}c")}


def wait_for(node: Node, other: Node) -> None:
    deadline = time.monotonic() + 30
    while not reaches(node, other):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_nodes_share_neither_names_nor_processes_nor_files(separate_nodes: RayNodes) -> None:
    first, second, third = separate_nodes.nodes
    assert [node.run("hostname").stdout.strip() for node in separate_nodes.nodes] == ["node0", "node1", "node2"]
    assert first.run("getent", "hosts", "node2").stdout.split() == [third.address, "node2"]
    for place in ("/tmp", "/dev/shm", str(separate_nodes.run_path)):
        assert first.run("touch", f"{place}/mine").returncode == 0
        assert first.run("test", "-e", f"{place}/mine").returncode == 0
        assert second.run("test", "-e", f"{place}/mine").returncode == 1
        assert not Path(place, "mine").exists()
    assert "sleep" in second.run("ps", "-e").stdout
    assert len(second.run("ps", "-e").stdout.splitlines()) < 6
    assert second.run("test", "-e", str(ROOT / "pyproject.toml")).returncode == 0


def test_a_disconnected_node_cannot_be_reached_until_it_returns(separate_nodes: RayNodes) -> None:
    first, second, _ = separate_nodes.nodes
    second.start(separate_nodes.logs / "listen.log", sys.executable, "-c", LISTEN)
    wait_for(first, second)
    second.disconnect()
    assert not reaches(first, second)
    second.reconnect()
    wait_for(first, second)


def test_a_killed_node_ends_with_all_its_programs(separate_nodes: RayNodes) -> None:
    last = separate_nodes.nodes[-1]
    program = last.start(separate_nodes.logs / "sleep.log", "sleep", "600")
    assert program.poll() is None
    last.kill()
    assert program.poll() is not None
    assert separate_nodes.head.run("hostname").stdout.strip() == "node0"


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_nodes_see_a_shared_run_path_and_nothing_of_a_dead_test_is_left(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    script = f"""
import os, signal
from pathlib import Path
from tests.cluster.nodes import ray_nodes
with ray_nodes(Path({str(tmp_path)!r}), Path({str(tmp_path / "runs")!r}), shared=True, count=1) as nodes:
    nodes.head.run("touch", {str(tmp_path / "runs" / "seen")!r})
    print(nodes.head.holder.pid, nodes.head.network, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'platform'}:{ROOT}"}
    died = subprocess.run([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True)
    assert died.returncode == -signal.SIGKILL
    assert (tmp_path / "runs" / "seen").exists()
    holder, network = died.stdout.split()
    deadline = time.monotonic() + 30
    while Path("/proc", holder).exists() and Path("/proc", holder, "cmdline").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert network in subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    remove_leftovers()
    assert network not in subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    assert subprocess.run(["ip", "link", "show", network.rpartition("n")[0]], capture_output=True).returncode != 0


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_nothing_is_left_when_a_test_fails(tmp_path: Path) -> None:
    def fail() -> None:
        with ray_nodes(tmp_path, tmp_path, shared=True, count=1):
            raise RuntimeError("failed")

    before = links()
    with pytest.raises(RuntimeError, match="failed"):
        fail()
    assert links() == before
