"""Compares `prepare` with Polars and DuckDB on a generated log, in one run on one machine.

The engines do the part of the work that they can do: look up items, drop repeats, sort, and write one row per user.
`prepare` also checks every value, counts every row of every file, splits by time and writes statistics and items.

    make bench-data ARGS="--events 1000000 10000000"
"""

import argparse
import json
import platform
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
import yaml
from rich.console import Console
from rich.table import Table

from coldstart.config import MetricsLog
from workloads.benchmarks.data.large_log import write_log
from workloads.benchmarks.peers import ROOT, environment, run_watched
from workloads.benchmarks.results_page import RESULTS, add_section, commit

HERE = Path(__file__).parent
PEERS = {"Polars": ("polars==2.1.0", "peer_polars.py"), "DuckDB": ("duckdb==2.0.1", "peer_duckdb.py")}
OURS = "coldstart"
PAGE = RESULTS / "data.md"


@dataclass(frozen=True)
class Run:
    """One preparation of a log.

    Attributes:
        events: Rows of the log.
        engine: Who prepared it.
        seconds: From start to end of the program.
        own_seconds: Without the start and end of Ray and Python.
        peak_gib: Memory of all processes together; shared pages count once.
        kept: Events that were written.
    """

    events: int
    engine: str
    seconds: float
    own_seconds: float
    peak_gib: float
    kept: int


def prepare_log(events: int, home: Path) -> list[Run]:
    """Prepares a log of this size with all engines in turn."""
    source = home / f"log-{events}"
    if not (source / ".ready").is_file():
        write_log(source, events)
        (source / ".ready").touch()
    return [_prepare(events, source, home), *(_prepare_by_peer(name, events, source, home) for name in PEERS)]


def _prepare(events: int, source: Path, home: Path) -> Run:
    name, recipe = f"log-{events}", home / f"log-{events}.yaml"
    files = {"root": str(source.absolute()), "items": "items.parquet", "events": "events.parquet"}
    columns = {"title": "title", "label": "clicked", "text": None, "image": None}
    settings = {"data": {"source": "files", "files": {**files, "columns": columns}}}
    recipe.write_text(yaml.safe_dump({"name": name, "paths": {"runs": str(home / "runs")}, **settings}))
    log = MetricsLog(home / "runs" / name / "metrics" / "prepare.jsonl")
    log.clear()
    command = [sys.executable, "-m", "workloads.prepare", "--recipe", str(recipe), "--json"]
    seconds, peak = _timed(command, home / f"{OURS}.log")
    times = [entry["time"] for entry in log.read()]
    result = json.loads((home / "runs" / name / "dataset" / "manifest.json").read_text())
    return Run(events, OURS, seconds, times[-1] - times[0], peak, result["metadata"]["events"])


def _prepare_by_peer(name: str, events: int, source: Path, home: Path) -> Run:
    requirement, program = PEERS[name]
    python = environment(name, [requirement], home)
    command = [str(python), str(HERE / program), str(source), str(home / f"{name}.parquet")]
    seconds, peak = _timed(command, home / f"{name}.log")
    kept = int((home / f"{name}.log").read_text().split()[-1])
    return Run(events, name, seconds, seconds, peak, kept)


def _timed(command: list[str], log: Path) -> tuple[float, float]:
    start = time.perf_counter()
    _, peak_mb = run_watched(command, log=log)
    return time.perf_counter() - start, peak_mb * 1e6 / 2**30


def section(runs: list[Run]) -> str:
    """A dated Markdown section."""
    load = psutil.getloadavg()[0]
    machine = f"{psutil.cpu_count()} cores ({platform.machine()}), load {load:.0f} at the end"
    lines = [
        f"## Preparation against Polars and DuckDB, {datetime.now(UTC):%Y-%m-%d}, {machine}",
        "",
        f"Commit {commit()}, `python -m workloads.benchmarks.data`. The engines look up "
        "items, drop repeats, sort and write lists per user; `prepare` also checks and counts every row, splits, and "
        "writes the items.",
        "",
        "| events | engine | seconds | without process starts | times the faster engine | GiB of all processes |",
        "|---|---|---|---|---|---|",
    ]
    for run in runs:
        best = min(other.seconds for other in runs if other.events == run.events and other.engine != OURS)
        lines.append(
            f"| {run.events:,} | {run.engine} | {run.seconds:.1f} | {run.own_seconds:.1f} | "
            f"{run.own_seconds / best:.1f} | {run.peak_gib:.1f} |"
        )
    return "\n".join(lines) + "\n"


def disagreements(runs: list[Run]) -> list[str]:
    """Engines that kept other numbers of events than `prepare` did."""
    ours = {run.events: run.kept for run in runs if run.engine == OURS}
    return [f"{run.engine} kept {run.kept} of {run.events}" for run in runs if run.kept != ours[run.events]]


def main() -> None:
    """Measures, prints a table, and adds it to the results if asked."""
    parser = argparse.ArgumentParser(prog="python -m workloads.benchmarks.data", description=__doc__)
    parser.add_argument("--events", type=int, nargs="+", default=[1_000_000, 10_000_000], help="sizes of the log")
    parser.add_argument("--directory", type=Path, default=Path("runs/bench-data"), help="for logs and environments")
    parser.add_argument("--write", action="store_true", help=f"add the table to {PAGE.relative_to(ROOT)}")
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    runs = [run for events in arguments.events for run in prepare_log(events, arguments.directory.absolute())]
    table = Table("events", "engine", "seconds", "own seconds", "GiB", "kept")
    for run in runs:
        figures = (f"{run.seconds:.1f}", f"{run.own_seconds:.1f}", f"{run.peak_gib:.1f}", f"{run.kept:,}")
        table.add_row(f"{run.events:,}", run.engine, *figures)
    Console(width=120).print(table)
    if wrong := disagreements(runs):
        raise SystemExit(f"the engines disagree: {'; '.join(wrong)}")
    if arguments.write:
        add_section(PAGE, section(runs))


if __name__ == "__main__":
    main()
