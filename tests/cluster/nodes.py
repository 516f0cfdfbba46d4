"""Several nodes of a Ray cluster on one machine, separated as machines are: each has its own network, host name,
processes, `/tmp` and `/dev/shm`, and sees nothing of the run path unless it is given a shared one. Needs root.

The names of what the kernel keeps hold the PID of this process, so that a later test removes what a killed one left.
"""

import itertools
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PROGRAMS = ("ip", "unshare", "nsenter", "setpriv", "mount")
OBJECT_STORE_BYTES = 100_000_000
START_SECONDS = 240.0
_OWNED = re.compile(r"(cs(\d+)c\d+)n\d+")
_NUMBERS = itertools.count()


def missing() -> str | None:
    """Why nodes cannot be made here, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    return f"not installed: {', '.join(absent)} (apt-get install iproute2 util-linux)" if absent else None


@dataclass
class Node:
    """One node.

    Attributes:
        name: Its host name.
        address: On the bridge.
        network: Name of its network namespace.
        environment: Of all its programs.
        holder: `unshare`, whose death ends all processes of the node.
        started: Programs that run in the background.
    """

    name: str
    address: str
    network: str
    environment: Mapping[str, str]
    holder: subprocess.Popen[bytes]
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def command(self, *arguments: str) -> list[str]:
        """The command line that runs a program in this node."""
        (child,) = Path(f"/proc/{self.holder.pid}/task/{self.holder.pid}/children").read_text().split()
        return ["nsenter", "--target", child, "--mount", "--uts", "--ipc", "--net", "--pid", "--wd=/", *arguments]

    def run(self, *arguments: str, timeout: float = 120, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs a program to its end."""
        environment = {**self.environment, **variables}
        return subprocess.run(
            self.command(*arguments), env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )

    def start(self, log: Path, *arguments: str) -> subprocess.Popen[bytes]:
        """Starts a program in the background; its output goes to a file."""
        with log.open("wb") as stream:
            started = subprocess.Popen(
                self.command(*arguments), env=self.environment, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL
            )
        self.started.append(started)
        return started

    def kill(self) -> None:
        """Ends all processes of the node at once, as a power cut does."""
        self.holder.kill()
        self.holder.wait()
        for process in self.started:
            process.wait(30)

    def disconnect(self) -> None:
        """Takes the node off the network."""
        _run("ip", "-n", self.network, "link", "set", "eth0", "down")

    def reconnect(self) -> None:
        """Brings the node back onto the network."""
        _run("ip", "-n", self.network, "link", "set", "eth0", "up")


@dataclass
class RayNodes:
    """Nodes of one Ray cluster with token auth; the first one is the head.

    Attributes:
        nodes: The nodes.
        gateway: Address of this machine on their bridge; its own programs can be reached there.
        token: Of the cluster.
        logs: Directory of the logs of `ray start`.
        run_path: Directory for runs.
    """

    nodes: list[Node]
    gateway: str
    token: str
    logs: Path
    run_path: Path

    @property
    def head(self) -> Node:
        return self.nodes[0]

    @property
    def dashboard(self) -> str:
        """URL of the Jobs API."""
        return f"http://{self.head.address}:8265"

    @property
    def client(self) -> dict[str, str]:
        """Environment of a client on this machine."""
        names = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token, "RAY_API_SERVER_ADDRESS": self.dashboard}
        return _environment() | names

    def start_ray(self, cpus: Sequence[int]) -> None:
        """Starts Ray on every node with so many logical CPUs, and waits until all have joined."""
        dashboard = ("--head", "--port=6379", f"--dashboard-host={self.head.address}", "--dashboard-port=8265")
        self._start(self.head, cpus[0], *dashboard)
        self._wait(1)
        # One after the other: `ray start` gives up after 30 seconds, which is little on a busy machine.
        for count, (node, number) in enumerate(zip(self.nodes[1:], cpus[1:], strict=True), 2):
            self._start(node, number, f"--address={self.head.address}:6379")
            self._wait(count)

    def alive(self) -> list[str]:
        """Addresses of the nodes that Ray sees."""
        request = urllib.request.Request(
            f"{self.dashboard}/api/v0/nodes?detail=0", headers={"Authorization": f"Bearer {self.token}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                rows: list[dict[str, Any]] = json.load(answer)["data"]["result"]["result"]
        except OSError:
            return []
        return [row["node_ip"] for row in rows if row["state"] == "ALIVE"]

    def _start(self, node: Node, cpus: int, *arguments: str) -> None:
        program = (sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats")
        limits = (f"--num-cpus={cpus}", f"--object-store-memory={OBJECT_STORE_BYTES}", f"--labels=node={node.name}")
        node.start(self.logs / f"{node.name}.log", *program, f"--node-ip-address={node.address}", *limits, *arguments)

    def _wait(self, count: int) -> None:
        deadline = time.monotonic() + START_SECONDS
        while len(self.alive()) < count:
            ended = [node.name for node in self.nodes for process in node.started if process.poll() is not None]
            if ended or time.monotonic() > deadline:
                logs = "\n".join(file.read_text()[-2000:] for file in sorted(self.logs.glob("*.log")))
                raise RuntimeError(f"{len(self.alive())} of {count} nodes joined; ended: {ended}\n{logs}")
            time.sleep(0.3)


@contextmanager
def ray_nodes(directory: Path, run_path: Path, *, shared: bool, count: int = 3) -> Iterator[RayNodes]:
    """Makes nodes without Ray, and removes them at the end, whatever happens.

    Args:
        directory: Of the logs.
        run_path: Existing directory for runs. With `shared`, all nodes see it; otherwise each has an empty one there.
        shared: See `run_path`.
        count: Number of nodes.
    """
    remove_leftovers()
    number = next(_NUMBERS)
    bridge, place = f"cs{os.getpid()}c{number}", os.getpid() + 97 * number
    subnet = f"10.{64 + (place >> 8) % 64}.{place % 256}"
    token = secrets.token_hex(32)
    environment = _environment() | {
        "HOME": "/tmp/home",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        # Other programs of this machine must not make Ray kill workers.
        "RAY_memory_monitor_refresh_ms": "0",
    }
    hosts = "".join(f"{subnet}.{10 + number} node{number}\\n" for number in range(count))
    script = _first_script(hosts, run_path, shared=shared)
    with ExitStack() as stack:
        stack.callback(subprocess.run, ["ip", "link", "delete", bridge], capture_output=True, check=False)
        _run("ip", "link", "add", bridge, "type", "bridge")
        _run("ip", "address", "add", f"{subnet}.1/24", "dev", bridge)
        _run("ip", "link", "set", bridge, "up")
        nodes = []
        for number in range(count):
            network, address = f"{bridge}n{number}", f"{subnet}.{10 + number}"
            stack.callback(subprocess.run, ["ip", "netns", "delete", network], capture_output=True, check=False)
            _make_network(network, bridge, f"{address}/24")
            name = f"node{number}"
            node = Node(name, address, network, environment, _hold(network, name, script))
            stack.callback(node.kill)
            nodes.append(node)
        for node in nodes:
            _wait_until_ready(node)
        yield RayNodes(nodes, f"{subnet}.1", token, directory, run_path)


def remove_leftovers() -> None:
    """Removes the networks of test processes that were killed; their nodes ended with them."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines():
        if (owned := _OWNED.fullmatch(line.split()[0])) and not Path("/proc", owned[2]).exists():
            subprocess.run(["ip", "netns", "delete", owned[0]], check=False)
            subprocess.run(["ip", "link", "delete", owned[1]], capture_output=True, check=False)


def _environment() -> dict[str, str]:
    """This environment without what would point a node at another Ray or at a proxy."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    kept = {name: value for name, value in kept.items() if not name.lower().endswith("_proxy")}
    kept["PATH"] = f"{Path(sys.executable).parent}:{kept['PATH']}"
    kept["PYTHONPATH"] = f"{ROOT / 'platform'}:{ROOT}"
    return kept


def _make_network(network: str, bridge: str, address: str) -> None:
    _run("ip", "netns", "add", network)
    _run("ip", "link", "add", network, "type", "veth", "peer", "name", "eth0", "netns", network)
    _run("ip", "link", "set", network, "master", bridge, "up")
    _run("ip", "-n", network, "address", "add", address, "dev", "eth0")
    for device in ("lo", "eth0"):
        _run("ip", "-n", network, "link", "set", device, "up")


def _hold(network: str, name: str, script: str) -> subprocess.Popen[bytes]:
    """Starts the process that holds a node: it dies with this one, and everything in the node dies with it."""
    unshare = ["unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--mount-proc", "--kill-child"]
    return subprocess.Popen(
        ["ip", "netns", "exec", network, "setpriv", "--pdeathsig", "KILL", *unshare, "bash", "-c", script, name],
        stdin=subprocess.DEVNULL,
    )


def _first_script(hosts: str, run_path: Path, *, shared: bool) -> str:
    """What the first process of a node runs; its argument is the name. As PID 1, bash collects dead processes."""
    visible = [ROOT, Path(sys.prefix), Path(sys.base_prefix), *([run_path] if shared else [])]
    binds = " ".join(f"'{path.relative_to('/tmp')}'" for path in visible if path.is_relative_to("/tmp"))
    own_run_path = "" if shared else f"mkdir -p '{run_path}'; mount -t tmpfs tmpfs '{run_path}'"
    return f"""
set -e
hostname "$0"
stage=$(mktemp -d /run/stage-XXXX)
mount -t tmpfs tmpfs "$stage"
for path in {binds}; do
    mkdir -p "$stage/$path"
    mount --bind "/tmp/$path" "$stage/$path"
done
mkdir -p "$stage/home"
mount --move "$stage" /tmp
rmdir "$stage"
mount -t tmpfs -o size=512m tmpfs /dev/shm
# gloo asks for the address of its own name.
printf '127.0.0.1 localhost\n{hosts}' >/tmp/hosts
mount --bind /tmp/hosts /etc/hosts
{own_run_path}
touch /tmp/ready
sleep infinity &
wait
"""


def _wait_until_ready(node: Node) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and node.holder.poll() is None:
        try:
            if node.run("test", "-e", "/tmp/ready").returncode == 0:
                return
        except ValueError:  # `unshare` has no child yet
            pass
        time.sleep(0.05)
    node.holder.send_signal(signal.SIGKILL)
    raise RuntimeError(f"{node.name} did not start")


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
