"""The result of a soak as a section of the results page."""

import platform
import shlex
from datetime import UTC, datetime
from typing import Any

import numpy as np
import psutil

from workloads.benchmarks.results_page import commit
from workloads.benchmarks.soak.process_tree import RAY_ROLES


def section(result: dict[str, Any]) -> str:
    """Returns a dated Markdown section."""
    memory = psutil.virtual_memory().total / 2**30
    machine = f"{psutil.cpu_count()} cores of a shared {platform.machine()} server, {memory:.0f} GiB, no GPU"
    ms = np.array(result["milliseconds"])
    retries = sum(result["retries"].values())
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(result["retries"].items()))
    responses = " ".join(f"{name} {count:,}" for name, count in sorted(result["releases"].items()))
    sources = " ".join(f"{name} {count:,}" for name, count in sorted(result["slot_sources"].items()))
    actions = [sentence.split(" (")[0] for _, sentence in result["log"]]
    kills = sum(sentence.startswith("kill") for sentence in actions)
    rows = [
        (
            "load",
            f"{result['rate']:g} rankings/s for {result['minutes']:g} minutes, {result['published']:,} publishes",
        ),
        ("actions", f"{kills} replicas killed; " + "; ".join(one for one in actions if not one.startswith("kill"))),
        ("responses", f"{len(ms):,} ({responses}); candidates by slot source: {sources}"),
        ("failed requests", f"{len(result['failed'])}"),
        ("client retries", f"{retries} ({reasons or 'none'})"),
        (
            "responses that differ from their release's offline scores",
            f"{len(result['wrong'])}; largest difference {result['max_difference']:.1e}",
        ),
        ("p50, p99, p99.9, max, retries included, ms", ", ".join(f"{value:,.0f}" for value in _quantiles(ms))),
    ]
    lines = [
        f"## {datetime.now(UTC):%Y-%m-%d}, {machine}",
        "",
        f"Commit {commit()}. `{shlex.join(['python', '-m', 'workloads.benchmarks.soak', *result['arguments']])}`.",
        "",
        "| what | measured |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in rows),
        "",
        "| private memory of | processes | MB | MB per minute | within noise of an idle replica (control) |",
        "|---|---|---|---|---|",
    ]
    for role, one in result["memory"].items():
        slope = f"{one['per_minute']:+.3f} ± {one['error']:.3f}"
        flat = "yes" if one["flat"] else "no, Ray's own" if role in RAY_ROLES else "**no**"
        lines.append(f"| {role} | {one['processes']} | {one['megabytes']:,.0f} | {slope} | {flat} |")
    failed = [name for name, passed in result["checks"].items() if not passed]
    lines += ["", "All checks pass." if not failed else f"Failed checks: {', '.join(failed)}."]
    return "\n".join(lines) + "\n"


def _quantiles(ms: np.ndarray) -> list[float]:
    return [float(np.quantile(ms, q)) for q in (0.5, 0.99, 0.999, 1.0)] if len(ms) else []
