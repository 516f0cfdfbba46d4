"""The application against bare uvicorn with the same ranker, and against Serve as it comes; a step in load; a swap.

make bench-serve
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
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workloads.benchmarks.serving import made, parity, table
from workloads.benchmarks.serving.ports import free_port
from workloads.console import CONSOLE

HISTORY = 50
CLIENTS = (1, 4, 16, 64)
FEW = (1, 16)
PARTS = ("steady", "forms", "swap", "step")
COLD = 8
"""Candidates of a request that are ranked by their proxy, in the shape `cold`."""
RESULTS = Path(__file__).parents[1] / "RESULTS.md"
_START_SECONDS = 300
STEP = {
    "max_replicas": 3,
    "max_batch": 8,
    "ranker_calls": 2,
    "max_waiting": 16,
    "request_timeout_s": 5.0,
    "scaling": {"gateway": 8.0, "look_back_s": 5.0, "upscale_delay_s": 5.0},
}


@dataclass
class Contender:
    """A server that is up.

    Attributes:
        name: bare, or one of `served.KINDS`.
        url: Where.
        process: Its root.
    """

    name: str
    url: str
    process: "subprocess.Popen[str]"

    def tell(self, word: str) -> str:
        """Says a word to it and waits for its answer."""
        assert self.process.stdin is not None
        print(word, file=self.process.stdin, flush=True)
        return self.hear()

    def hear(self) -> str:
        """Its next line.

        Raises:
            RuntimeError: it failed.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line or line.startswith("failed"):
            raise RuntimeError(f"{self.name}: {line or 'ended without a word'}")
        return line


@contextmanager
def bare(run: Path, proxies_of: str = "ours") -> Iterator[Contender]:
    """The ceiling; it reads the proxies that another contender has stored."""
    port, space = free_port(), made.release(run).adaptor.fingerprint
    store = run.parent / f"store-{proxies_of}"
    command = ["-m", "workloads.benchmarks.serving.bare", "--run", run, "--store", store, "--space", space]
    process = subprocess.Popen([sys.executable, *map(str, command), "--port", str(port)], text=True)
    try:
        _until_it_listens(port)
        yield Contender("bare", f"http://127.0.0.1:{port}", process)
    finally:
        process.terminate()
        process.wait()


@contextmanager
def served(kind: str, run: Path, **settings: Any) -> Iterator[Contender]:
    """The application in one of its `KINDS`, once it has said that it is ready."""
    port = free_port()
    command = ["-m", "workloads.benchmarks.serving.served", "--kind", kind, "--run", run, "--port", port]
    process = subprocess.Popen(
        [sys.executable, *map(str, command), "--settings", json.dumps(settings)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    contender = Contender(kind, f"http://127.0.0.1:{port}", process)
    try:
        yield contender
    finally:
        with suppress(BrokenPipeError):
            assert process.stdin is not None
            print("stop", file=process.stdin, flush=True)
        process.wait(_START_SECONDS)


def bodies(rng: np.random.Generator, candidates: int, cold: int, count: int = 200) -> list[dict[str, Any]]:
    """Rank requests with a full history; `cold` of the candidates have no ID row."""
    asked = []
    for _ in range(count):
        seen = rng.integers(0, made.TRAINED, HISTORY)
        names = [*rng.integers(0, made.TRAINED, candidates - cold), *rng.integers(made.TRAINED, made.ITEMS, cold)]
        rng.shuffle(names)
        events = zip(seen, rng.integers(0, 2, HISTORY), 1_700_000_000 + np.arange(HISTORY), strict=True)
        asked.append(
            {
                "history": [{"item_id": made.IDS[i], "label": int(y), "timestamp": int(t)} for i, y, t in events],
                "candidates": [{"item_id": made.IDS[i]} for i in names],
                "now": 1_700_000_100,
            }
        )
    return asked


def load(cells: list[dict[str, Any]], work: Path) -> list[dict[str, Any]]:
    """Sends a plan of cells from a process of its own."""
    plan, result = work / "plan.json", work / "result.json"
    plan.write_text(json.dumps(cells))
    subprocess.run([sys.executable, Path(__file__).with_name("load.py"), plan, result], check=True)
    done: list[dict[str, Any]] = json.loads(result.read_text())
    return done


def steady(
    contenders: list[Contender],
    shapes: dict[str, Path],
    work: Path,
    seconds: float,
    plan: Iterable[tuple[str, tuple[int, ...], int]],
) -> list[dict[str, Any]]:
    """Every contender in turn, several short rounds of each shape and number of clients of a plan."""
    cells = []
    for shape, clients, rounds in plan:
        for turn in range(rounds):
            for many in clients:
                order = contenders[turn % len(contenders) :] + contenders[: turn % len(contenders)]
                cells += [_cell(one, shape, shapes[shape], [_step(many, seconds, warm_s=1.0)]) for one in order]
    return load(cells, work)


def step_in_load(run: Path, shape: Path, work: Path) -> dict[str, Any]:
    """Six clients, then sixty, who come back when they are told to."""
    with served("ours", run, **STEP) as one:
        one.hear()
        (cell,) = load([_cell(one, "step", shape, [_step(6, 10, warm_s=2.0), _step(60, 45)])], work)
        return cell | {"replicas": json.loads(one.tell("replicas").partition(" ")[2])}


def swap_under_load(ours: Contender, shape: Path, work: Path) -> dict[str, Any]:
    """A promotion and its rollback while four clients ask."""
    told: list[str] = []

    def swap() -> None:
        time.sleep(5)
        told.extend(ours.tell("swap") for _ in range(2))

    promotion = threading.Thread(target=swap)
    promotion.start()
    (cell,) = load([_cell(ours, "swap", shape, [_step(4, 75)])], work)
    promotion.join()
    return cell | {"told": told}


def _step(clients: int, seconds: float, warm_s: float = 0.0) -> dict[str, Any]:
    return {"clients": clients, "seconds": seconds, "warm_s": warm_s}


def _cell(contender: Contender, shape: str, path: Path, steps: list[dict[str, Any]]) -> dict[str, Any]:
    about = {"contender": contender.name, "url": contender.url, "pids": [contender.process.pid]}
    return about | {"shape": shape, "bodies": str(path), "steps": steps}


def _until_it_listens(port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port)).close()
            return
        time.sleep(0.2)
    raise RuntimeError(f"nobody listens on port {port}")


def main() -> None:
    """Measures everything and adds a section to RESULTS.md."""
    parser = argparse.ArgumentParser(prog="python -m workloads.benchmarks.serving", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.5, help="of a measured round (default: 3.5)")
    parser.add_argument("--only", choices=PARTS, action="append", help="leave the others out")
    parser.add_argument("--out", type=Path, help="where the figures go as JSON (default: only RESULTS.md)")
    parser.add_argument("--dry", action="store_true", help="print the section, leave RESULTS.md alone")
    given = parser.parse_args()
    parts = given.only or PARTS
    began, found = time.monotonic(), {}
    with tempfile.TemporaryDirectory(prefix="bench-serve-") as folder:
        work = Path(folder)
        run = made.make(work).run_dir
        made.another(run)
        rng = np.random.default_rng(17)
        shapes = {"32": (32, 0), "200": (200, 0), "cold": (32, COLD)}
        files = {name: work / f"{name}.json" for name in shapes}
        for name, (candidates, cold) in shapes.items():
            files[name].write_text(json.dumps(bodies(rng, candidates, cold)))
        with ExitStack() as up:
            ours = up.enter_context(served("ours", run))
            if "steady" in parts:
                with ExitStack() as others:
                    plain = others.enter_context(served("plain", run))
                    CONSOLE.print(f"{ours.hear()} {plain.hear()}")
                    ceiling = others.enter_context(bare(run))
                    found["parity"] = parity.worst(ours.url, run, rows=1000)
                    plan = (("32", CLIENTS, 3), ("200", FEW, 2), ("cold", FEW, 2))
                    found["steady"] = table.cells(steady([ours, ceiling, plain], files, work, given.seconds, plan))
            else:
                ours.hear()
            if "swap" in parts:
                found["swap"] = table.swap(swap_under_load(ours, files["cold"], work))
        if "forms" in parts:
            with served("apart", run) as apart, served("roomy", run) as roomy:
                CONSOLE.print(f"{apart.hear()} {roomy.hear()}")
                with bare(run, "apart") as ceiling:
                    plan = (("32", FEW, 3),)
                    found["forms"] = table.cells(steady([apart, ceiling, roomy], files, work, given.seconds, plan))
        if "step" in parts:
            found["step"] = table.step(step_in_load(run, files["32"], work))
    found["minutes"] = (time.monotonic() - began) / 60
    if given.out:
        given.out.write_text(json.dumps(found, indent=1))
    section = table.section(found)
    CONSOLE.print(section, soft_wrap=True, markup=False)
    if not given.dry:
        RESULTS.write_text(RESULTS.read_text().rstrip() + "\n\n" + section)


if __name__ == "__main__":
    main()
