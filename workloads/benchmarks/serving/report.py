"""Summaries of what the clients received, and a section of the results page."""

import os
import platform
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import numpy as np

from workloads.benchmarks.results_page import commit

P99_BUDGET_MS = 250
"""Budget of p99 after a step in load."""


def summarize_cells(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns medians over the rounds of every server, shape and number of clients."""
    rounds: dict[tuple[str, str, int], list[dict[str, float]]] = defaultdict(list)
    for cell in cells:
        (step,) = cell["steps"]
        rows = _within(cell["rows"], step)
        succeeded = [ms for _, ms, status, *_ in rows if status == 200]
        rounds[cell["server"], cell["shape"], step["clients"]].append(
            {
                "rps": len(succeeded) / (step["ended"] - step["began"]),
                **_percentiles(succeeded),
                "cpu_ms": 1000 * step["cpu_s"] / max(len(rows), 1),
                "failed": float(len(rows) - len(succeeded)),
            }
        )
    return [
        {"server": server, "shape": shape, "clients": clients, "rounds": len(measured)}
        | {name: statistics.median(one[name] for one in measured) for name in measured[0] if name != "failed"}
        | {"failed": int(sum(one["failed"] for one in measured))}
        for (server, shape, clients), measured in rounds.items()
    ]


def summarize_swap(cell: dict[str, Any]) -> dict[str, Any]:
    """Returns what clients received during a promotion and its rollback."""
    rows, (step,) = cell["rows"], cell["steps"]
    changes = [row for row, previous in zip(rows[1:], rows, strict=False) if row[4] != previous[4]]
    return {
        "swaps": cell["swaps"],
        "requests": len(rows),
        "failed": sum(status != 200 for _, _, status, *_ in rows),
        "releases": sorted({row[4] for row in rows}),
        "last_change_s": changes[-1][0] - step["began"] if changes else None,
        **_percentiles([row[1] for row in rows]),
    }


def summarize_step(cell: dict[str, Any]) -> dict[str, Any]:
    """Returns what clients received before and after a step in load."""
    before, after = cell["steps"]
    late = dict(after, began=after["ended"] - 10)
    early = dict(after, ended=after["began"] + 10)
    rows = _within(cell["rows"], after)
    return {
        "replicas": cell["replicas"],
        "statuses": dict(Counter(str(row[2]) for row in cell["rows"])),
        "refused_without_retry_after": sum(row[2] == 429 and row[3] is None for row in rows),
        "slowest_ms": max(row[1] for row in rows),
        **{
            name: _percentiles([row[1] for row in part if row[2] == 200])
            | {"rps": sum(row[2] == 200 for row in part) / (period["ended"] - period["began"])}
            | {"refused": sum(row[2] == 429 for row in part)}
            for name, period in (("before", before), ("first_10_s", early), ("last_10_s", late))
            for part in [_within(cell["rows"], period)]
        },
    }


def section(results: dict[str, Any]) -> str:
    """Returns the Markdown section, with the targets next to the measurements."""
    machine = f"{os.cpu_count()} cores of a shared {platform.machine()} server, no GPU"
    lines = [
        f"## {datetime.now(UTC):%Y-%m-%d}, {machine}",
        "",
        f"`make bench-serve`, commit {commit()}: {results['minutes']:.1f} min; "
        "random weights of the default recipe's sizes, history 50. `uvicorn` has the same validation, vectors and "
        "ranker in one process, without framework or Ray; `serve_defaults` is the same application with Serve's "
        "default flags, proxy and limits and without batching. One replica per deployment; Locust on the same cores; "
        "medians of interleaved rounds; CPU of all processes of a server, per request.",
        "",
    ]
    if "steady" in results:
        lines += [*_steady_table(results["steady"]), "", *_target_table(results), ""]
    if "placement" in results:
        lines += [
            "`separate_scorer` has the scorer in its own deployment; `serve_unbounded` is `serve_defaults` without "
            "Serve's limit of 5 requests per replica, beyond which its router backs off.",
            "",
            *_steady_table(results["placement"]),
            "",
        ]
    if "swap" in results:
        lines += [_swap_text(results["swap"]), ""]
    if "step" in results:
        lines += [_step_text(results["step"]), ""]
    return "\n".join(lines)


def _steady_table(rows: list[dict[str, Any]]) -> Iterable[str]:
    yield "| candidates | clients | server | req/s | x uvicorn | p50 ms | p90 | p99 | CPU ms | failed |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    labels = {"32": "32 by ID", "200": "200 by ID", "cold": "32, 8 of them cold"}
    for row in sorted(rows, key=lambda r: (list(labels).index(r["shape"]), r["clients"], r["server"])):
        ratio = row["rps"] / _find(rows, "uvicorn", row["shape"], row["clients"])["rps"]
        yield (
            f"| {labels[row['shape']]} | {row['clients']} | {row['server']} | {row['rps']:.0f} | {ratio:.2f} "
            f"| {row['p50']:.1f} | {row['p90']:.1f} | {row['p99']:.1f} | {row['cpu_ms']:.2f} | {row['failed']} |"
        )


def _target_table(results: dict[str, Any]) -> Iterable[str]:
    names = ("coldstart", "uvicorn", "serve_defaults")
    at = {(name, clients): _find(results["steady"], name, "32", clients) for name in names for clients in (1, 16)}
    to_ceiling = at["coldstart", 16]["rps"] / at["uvicorn", 16]["rps"]
    p50_ratio = at["coldstart", 1]["p50"] / at["uvicorn", 1]["p50"]
    to_defaults = at["coldstart", 16]["rps"] / at["serve_defaults", 16]["rps"]
    yield "| target | measured |"
    yield "|---|---|"
    yield f"| 16 clients: at least 0.6 of uvicorn's req/s | {to_ceiling:.2f} |"
    yield f"| 1 client: p50 at most 2.5 times uvicorn's | {p50_ratio:.2f} |"
    yield f"| 16 clients: at least 3 times the req/s of Serve's defaults | {to_defaults:.2f} |"
    yield f"| 1,000 random rows: served equals offline to 1e-5 | {results['parity']:.1e} |"


def _swap_text(swap: dict[str, Any]) -> str:
    return (
        f"Swap under load (4 clients, a promotion and its rollback): {swap['requests']} requests, {swap['failed']} "
        f"failed; releases {', '.join(swap['releases'])}; p50 {swap['p50']:.1f}, p99 {swap['p99']:.1f} ms meanwhile "
        f"({'; '.join(swap['swaps'])} s)."
    )


def _step_text(step: dict[str, Any]) -> str:
    parts = "; ".join(
        f"{name.replace('_', ' ')}: {part['rps']:.0f} req/s, p50 {part['p50']:.0f}, p99 {part['p99']:.0f} ms, "
        f"{part['refused']} refused"
        for name in ("before", "first_10_s", "last_10_s")
        for part in [step[name]]
    )
    return (
        f"Step from 6 to 60 clients that obey Retry-After (small queues, up to 3 replicas): {parts}. Statuses "
        f"{step['statuses']}, {step['refused_without_retry_after']} refused without Retry-After, slowest response "
        f"{step['slowest_ms']:.0f} ms; replicas at the end {step['replicas']}; budget of p99 {P99_BUDGET_MS} ms."
    )


def _find(rows: list[dict[str, Any]], server: str, shape: str, clients: int) -> dict[str, Any]:
    return next(r for r in rows if (r["server"], r["shape"], r["clients"]) == (server, shape, clients))


def _within(rows: list[Any], period: dict[str, Any]) -> list[Any]:
    return [row for row in rows if period["began"] <= row[0] < period["ended"]]


def _percentiles(ms: list[float]) -> dict[str, float]:
    if not ms:
        return dict.fromkeys(("p50", "p90", "p99"), float("nan"))
    return {f"p{q}": float(np.percentile(ms, q)) for q in (50, 90, 99)}
