"""A soak as a section of RESULTS.md."""

import platform
import shlex
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from workloads.benchmarks.soak.processes import OF_RAY


def section(result: dict[str, Any]) -> str:
    """A dated Markdown section."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True)
    memory = psutil.virtual_memory().total / 2**30
    machine = f"{psutil.cpu_count()} cores of a shared {platform.machine()} server, {memory:.0f} GiB, no GPU"
    ms = np.array(result["milliseconds"])
    retried = sum(result["retries"].values())
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(result["retries"].items()))
    answers = " ".join(f"{name} {count:,}" for name, count in sorted(result["releases"].items()))
    kinds = " ".join(f"{name} {count:,}" for name, count in sorted(result["vectors"].items()))
    happened = [sentence.split(" (")[0] for _, sentence in result["log"]]
    kills = sum(sentence.startswith("kill") for sentence in happened)
    rows = [
        (
            "load",
            f"{result['rate']:g} rankings/s for {result['minutes']:g} minutes, {result['published']:,} publishes",
        ),
        ("done to it", f"{kills} replicas killed; " + "; ".join(one for one in happened if not one.startswith("kill"))),
        ("answers", f"{len(ms):,} ({answers}); candidates by vector: {kinds}"),
        ("failed requests", f"{len(result['failed'])}"),
        ("retries inside the client", f"{retried} ({reasons or 'none'})"),
        (
            "answers off their release's offline scores",
            f"{len(result['wrong'])}; largest difference {result['worst']:.1e}",
        ),
        ("p50, p99, p99.9, longest, retries included, ms", ", ".join(f"{value:,.0f}" for value in _quantiles(ms))),
    ]
    lines = [
        f"## {datetime.now(UTC):%Y-%m-%d}, soak, {machine}",
        "",
        f"Commit {commit.stdout.decode().strip() or 'unknown'}. "
        f"`{shlex.join(['python', '-m', 'workloads.benchmarks.soak', *result['arguments']])}`.",
        "",
        "| what | found |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in rows),
        "",
        "| private memory of | processes | MB | MB per minute | within noise of an idle replica (control) |",
        "|---|---|---|---|---|",
    ]
    for role, one in result["memory"].items():
        slope = f"{one['per_minute']:+.3f} ± {one['error']:.3f}"
        told = "yes" if one["flat"] else "no, Ray's own" if role in OF_RAY else "**no**"
        lines.append(f"| {role} | {one['processes']} | {one['megabytes']:,.0f} | {slope} | {told} |")
    broken = [name for name, holds in result["verdicts"].items() if not holds]
    lines += ["", "All holds." if not broken else f"Does not hold: {', '.join(broken)}."]
    return "\n".join(lines) + "\n"


def _quantiles(ms: np.ndarray) -> list[float]:
    return [float(np.quantile(ms, q)) for q in (0.5, 0.99, 0.999, 1.0)] if len(ms) else []
