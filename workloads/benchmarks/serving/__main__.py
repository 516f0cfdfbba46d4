"""Measures the application against bare uvicorn with the same scorer and against Serve's defaults.

make bench-serve

Parts: steady load, a separate scorer deployment, a swap of releases under load, and a step in load.
"""

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coldstart.jobs.progress import CONSOLE
from workloads.benchmarks.results_page import RESULTS, add_section
from workloads.benchmarks.serving import fixtures, parity, report
from workloads.benchmarks.serving.ports import free_port

HISTORY = 50
CLIENTS = (1, 4, 16, 64)
FEW_CLIENTS = (1, 16)
PARTS = ("steady", "placement", "swap", "step")
COLD = 8
"""Candidates per request that are ranked by their proxy, in the shape `cold`."""
SHAPES = {"32": (32, 0), "200": (200, 0), "cold": (32, COLD)}
"""Name of a request shape -> candidates, and how many of them are cold."""
PAGE = RESULTS / "serving.md"
_START_SECONDS = 300
STEP = {
    "max_replicas": 3,
    "max_batch": 8,
    "max_inflight_calls": 2,
    "max_queue": 16,
    "request_timeout_s": 5.0,
    "scaling": {"gateway": 8.0, "look_back_period_s": 5.0, "upscale_delay_s": 5.0},
}


@dataclass
class ServerProcess:
    """A running server.

    Attributes:
        name: `uvicorn`, or one of `application_server.VARIANTS`.
        url: Base URL.
        process: Root of its process tree.
    """

    name: str
    url: str
    process: "subprocess.Popen[str]"

    def send(self, command: str) -> str:
        """Sends a command and returns the reply."""
        assert self.process.stdin is not None
        print(command, file=self.process.stdin, flush=True)
        return self.read_line()

    def read_line(self) -> str:
        """Returns the next line that the server prints.

        Raises:
            RuntimeError: the server failed or ended.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line or line.startswith("failed"):
            raise RuntimeError(f"{self.name}: {line or 'the process ended without output'}")
        return line


@contextmanager
def uvicorn_baseline(run: Path, store_of: str = "coldstart") -> Iterator[ServerProcess]:
    """Starts the ceiling, which reads the item store of an application server that runs already."""
    port = free_port()
    store = run.parent / f"store-{store_of}"
    command = ["-m", "workloads.benchmarks.serving.uvicorn_baseline", "--run", run, "--store", store]
    process = subprocess.Popen([sys.executable, *map(str, command), "--port", str(port)], text=True)
    try:
        _wait_for_port(port)
        yield ServerProcess("uvicorn", f"http://127.0.0.1:{port}", process)
    finally:
        process.terminate()
        process.wait()


@contextmanager
def application(variant: str, run: Path, **settings: Any) -> Iterator[ServerProcess]:
    """Starts the application in one of its `VARIANTS`; its first line says that it is ready."""
    port = free_port()
    command = ["-m", "workloads.benchmarks.serving.application_server", "--variant", variant, "--run", run]
    process = subprocess.Popen(
        [sys.executable, *map(str, command), "--port", str(port), "--settings", json.dumps(settings)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield ServerProcess(variant, f"http://127.0.0.1:{port}", process)
    finally:
        with suppress(BrokenPipeError):
            assert process.stdin is not None
            print("stop", file=process.stdin, flush=True)
        process.wait(_START_SECONDS)


def make_bodies(rng: np.random.Generator, candidates: int, cold: int, count: int = 200) -> list[dict[str, Any]]:
    """Returns rank requests with a full history; `cold` of the candidates have no ID row."""
    bodies = []
    for _ in range(count):
        past = rng.integers(0, fixtures.TRAINED, HISTORY)
        warm = rng.integers(0, fixtures.TRAINED, candidates - cold)
        targets = [*warm, *rng.integers(fixtures.TRAINED, fixtures.ITEMS, cold)]
        rng.shuffle(targets)
        events = zip(past, rng.integers(0, 2, HISTORY), 1_700_000_000 + np.arange(HISTORY), strict=True)
        bodies.append(
            {
                "history": [{"item_id": fixtures.IDS[i], "label": int(y), "timestamp": int(t)} for i, y, t in events],
                "candidates": [{"item_id": fixtures.IDS[i]} for i in targets],
                "now": 1_700_000_100,
            }
        )
    return bodies


def run_load(cells: list[dict[str, Any]], work: Path) -> list[dict[str, Any]]:
    """Sends the requests of a plan from a process of its own, and returns the cells with what clients received."""
    plan, result = work / "plan.json", work / "result.json"
    plan.write_text(json.dumps(cells))
    subprocess.run([sys.executable, Path(__file__).with_name("load_generator.py"), plan, result], check=True)
    measured: list[dict[str, Any]] = json.loads(result.read_text())
    return measured


def steady_load(
    servers: list[ServerProcess],
    shapes: dict[str, Path],
    work: Path,
    seconds: float,
    plan: Iterable[tuple[str, tuple[int, ...], int]],
) -> list[dict[str, Any]]:
    """Loads all servers in turn, in several short rounds of each shape and number of clients of a plan."""
    cells = []
    for shape, clients, rounds in plan:
        for number in range(rounds):
            for count in clients:
                order = servers[number % len(servers) :] + servers[: number % len(servers)]
                cells += [_cell(one, shape, shapes[shape], [_step(count, seconds, warm_s=1.0)]) for one in order]
    return run_load(cells, work)


def step_in_load(run: Path, shape: Path, work: Path) -> dict[str, Any]:
    """Loads with six clients, then with sixty; clients obey Retry-After."""
    with application("coldstart", run, **STEP) as server:
        server.read_line()
        (cell,) = run_load([_cell(server, "step", shape, [_step(6, 10, warm_s=2.0), _step(60, 45)])], work)
        return cell | {"replicas": json.loads(server.send("replicas").partition(" ")[2])}


def swap_under_load(server: ServerProcess, shape: Path, work: Path) -> dict[str, Any]:
    """Promotes a release and rolls it back while four clients send requests."""
    replies: list[str] = []

    def swap() -> None:
        time.sleep(5)
        replies.extend(server.send("swap") for _ in range(2))

    thread = threading.Thread(target=swap)
    thread.start()
    (cell,) = run_load([_cell(server, "swap", shape, [_step(4, 75)])], work)
    thread.join()
    return cell | {"swaps": replies}


def _step(clients: int, seconds: float, warm_s: float = 0.0) -> dict[str, Any]:
    return {"clients": clients, "seconds": seconds, "warm_s": warm_s}


def _cell(server: ServerProcess, shape: str, path: Path, steps: list[dict[str, Any]]) -> dict[str, Any]:
    target = {"server": server.name, "url": server.url, "pids": [server.process.pid]}
    return target | {"shape": shape, "bodies": str(path), "steps": steps}


def _wait_for_port(port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port)).close()
            return
        time.sleep(0.2)
    raise RuntimeError(f"no server listens on port {port} after {_START_SECONDS} s")


def measure(work: Path, parts: Iterable[str], seconds: float) -> dict[str, Any]:
    """Runs the parts in a work directory and returns a summary of each."""
    run = fixtures.write_run(work).run_dir
    fixtures.write_second_scorer(run)
    rng = np.random.default_rng(17)
    files = {name: work / f"{name}.json" for name in SHAPES}
    for name, (candidates, cold) in SHAPES.items():
        files[name].write_text(json.dumps(make_bodies(rng, candidates, cold)))
    results: dict[str, Any] = {}
    with application("coldstart", run) as server:
        if "steady" in parts:
            with application("serve_defaults", run) as defaults:
                CONSOLE.print(f"{server.read_line()} {defaults.read_line()}")
                with uvicorn_baseline(run) as ceiling:
                    results["parity"] = parity.max_score_difference(server.url, run, rows=1000)
                    plan = (("32", CLIENTS, 3), ("200", FEW_CLIENTS, 2), ("cold", FEW_CLIENTS, 2))
                    cells = steady_load([server, ceiling, defaults], files, work, seconds, plan)
                    results["steady"] = report.summarize_cells(cells)
        else:
            server.read_line()
        if "swap" in parts:
            results["swap"] = report.summarize_swap(swap_under_load(server, files["cold"], work))
    if "placement" in parts:
        with application("separate_scorer", run) as separate, application("serve_unbounded", run) as unbounded:
            CONSOLE.print(f"{separate.read_line()} {unbounded.read_line()}")
            with uvicorn_baseline(run, "separate_scorer") as ceiling:
                cells = steady_load([separate, ceiling, unbounded], files, work, seconds, (("32", FEW_CLIENTS, 3),))
                results["placement"] = report.summarize_cells(cells)
    if "step" in parts:
        results["step"] = report.summarize_step(step_in_load(run, files["32"], work))
    return results


def main() -> None:
    """Measures everything and adds a section to the results page."""
    parser = argparse.ArgumentParser(prog="python -m workloads.benchmarks.serving", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.5, help="length of a measured round (default: 3.5)")
    parser.add_argument("--only", choices=PARTS, action="append", help="run only this part; repeatable")
    parser.add_argument("--out", type=Path, help="also write the measurements to this JSON file")
    parser.add_argument("--dry", action="store_true", help=f"print the section and leave {PAGE.name} as it is")
    arguments = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-serve-") as folder:
        results = measure(Path(folder), arguments.only or PARTS, arguments.seconds)
    results["minutes"] = (time.monotonic() - started) / 60
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1))
    section = report.section(results)
    CONSOLE.print(section, soft_wrap=True, markup=False)
    if not arguments.dry:
        add_section(PAGE, section)


if __name__ == "__main__":
    main()
