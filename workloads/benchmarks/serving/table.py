"""What the clients saw, as figures and as a section of RESULTS.md."""

import os
import platform
import statistics
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

BUDGET_MS = 250
"""Of p99 after a step in load."""


def cells(seen: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Medians over the rounds of every contender, shape and number of clients."""
    rounds: dict[tuple[str, str, int], list[dict[str, float]]] = defaultdict(list)
    for cell in seen:
        (step,) = cell["steps"]
        rows = _between(cell["rows"], step)
        good = [ms for _, ms, status, *_ in rows if status == 200]
        rounds[cell["contender"], cell["shape"], step["clients"]].append(
            {
                "rps": len(good) / (step["ended"] - step["began"]),
                **_percentiles(good),
                "cpu_ms": 1000 * step["cpu_s"] / max(len(rows), 1),
                "failed": float(len(rows) - len(good)),
            }
        )
    return [
        {"contender": contender, "shape": shape, "clients": clients, "rounds": len(turns)}
        | {name: statistics.median(turn[name] for turn in turns) for name in turns[0] if name != "failed"}
        | {"failed": int(sum(turn["failed"] for turn in turns))}
        for (contender, shape, clients), turns in rounds.items()
    ]


def swap(cell: dict[str, Any]) -> dict[str, Any]:
    """What clients saw of a promotion and its rollback."""
    rows, (step,) = cell["rows"], cell["steps"]
    swaps = [row for row, before in zip(rows[1:], rows, strict=False) if row[4] != before[4]]
    return {
        "told": cell["told"],
        "requests": len(rows),
        "failed": sum(status != 200 for _, _, status, *_ in rows),
        "releases": sorted({row[4] for row in rows}),
        "last_change_s": swaps[-1][0] - step["began"] if swaps else None,
        **_percentiles([row[1] for row in rows]),
    }


def step(cell: dict[str, Any]) -> dict[str, Any]:
    """What clients saw of a step in load."""
    before, after = cell["steps"]
    late = dict(after, began=after["ended"] - 10)
    early = dict(after, ended=after["began"] + 10)
    rows = _between(cell["rows"], after)
    return {
        "replicas": cell["replicas"],
        "statuses": dict(Counter(str(row[2]) for row in cell["rows"])),
        "refused_without_retry_after": sum(row[2] == 429 and row[3] is None for row in rows),
        "slowest_ms": max(row[1] for row in rows),
        **{
            name: _percentiles([row[1] for row in part if row[2] == 200])
            | {"rps": sum(row[2] == 200 for row in part) / (of["ended"] - of["began"])}
            | {"refused": sum(row[2] == 429 for row in part)}
            for name, of in (("before", before), ("first_10_s", early), ("last_10_s", late))
            for part in [_between(cell["rows"], of)]
        },
    }


def section(found: dict[str, Any]) -> str:
    """The section, with what is asked of the figures beside them."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True)
    where = f"{os.cpu_count()} cores of a shared {platform.machine()} server, no GPU"
    lines = [
        f"## {datetime.now(UTC):%Y-%m-%d}, serving, {where}",
        "",
        f"`make bench-serve`, commit {commit.stdout.decode().strip() or 'unknown'}: {found['minutes']:.1f} min; random "
        "weights of the default recipe's sizes, history 50. `bare` is uvicorn with the same validation, vectors and "
        "ranker in one process, without framework or Ray; `plain` the same application with Serve's default flags, "
        "proxy, limits and no batching. One replica of each deployment; Locust on the same cores; medians of "
        "interleaved rounds. CPU is all processes of a contender, per request.",
        "",
    ]
    if "steady" in found:
        lines += [*_steady(found["steady"]), "", *_asked(found), ""]
    if "forms" in found:
        lines += [
            "`apart` has the ranker in a deployment of its own; `roomy` is `plain` without Serve's limit of 5 requests "
            "in a replica, beyond which its router waits longer and longer before it asks the replica again.",
            "",
            *_steady(found["forms"]),
            "",
        ]
    if "swap" in found:
        lines += [_swapped(found["swap"]), ""]
    if "step" in found:
        lines += [_stepped(found["step"]), ""]
    return "\n".join(lines)


def _steady(rows: list[dict[str, Any]]) -> Iterable[str]:
    yield "| candidates | clients | contender | req/s | x bare | p50 ms | p90 | p99 | CPU ms | failed |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    named = {"32": "32 by ID", "200": "200 by ID", "cold": "32, 8 of them cold"}
    for row in sorted(rows, key=lambda r: (list(named).index(r["shape"]), r["clients"], r["contender"])):
        ratio = row["rps"] / _of(rows, "bare", row["shape"], row["clients"])["rps"]
        yield (
            f"| {named[row['shape']]} | {row['clients']} | {row['contender']} | {row['rps']:.0f} | {ratio:.2f} "
            f"| {row['p50']:.1f} | {row['p90']:.1f} | {row['p99']:.1f} | {row['cpu_ms']:.2f} | {row['failed']} |"
        )


def _asked(found: dict[str, Any]) -> Iterable[str]:
    rows = found["steady"]
    at = {(name, many): _of(rows, name, "32", many) for name in ("ours", "bare", "plain") for many in (1, 16)}
    ceiling = at["ours", 16]["rps"] / at["bare", 16]["rps"]
    alone = at["ours", 1]["p50"] / at["bare", 1]["p50"]
    plain = at["ours", 16]["rps"] / at["plain", 16]["rps"]
    yield "| asked | seen |"
    yield "|---|---|"
    yield f"| 16 clients: at least 0.6 of the ceiling's req/s | {ceiling:.2f} |"
    yield f"| 1 client: p50 at most 2.5 times the ceiling's | {alone:.2f} |"
    yield f"| 16 clients: at least 3 times the req/s of Serve as it comes | {plain:.2f} |"
    yield f"| 1,000 random rows: served equals offline to 1e-5 | {found['parity']:.1e} |"


def _swapped(seen: dict[str, Any]) -> str:
    return (
        f"Swap under load (4 clients, a promotion and its rollback): {seen['requests']} requests, {seen['failed']} "
        f"failed; {', '.join(seen['releases'])} answered; p50 {seen['p50']:.1f}, p99 {seen['p99']:.1f} ms meanwhile "
        f"({'; '.join(seen['told'])} s)."
    )


def _stepped(seen: dict[str, Any]) -> str:
    parts = "; ".join(
        f"{name.replace('_', ' ')}: {part['rps']:.0f} req/s, p50 {part['p50']:.0f}, p99 {part['p99']:.0f} ms, "
        f"{part['refused']} refused"
        for name in ("before", "first_10_s", "last_10_s")
        for part in [seen[name]]
    )
    return (
        f"Step from 6 to 60 clients who heed Retry-After (small queues, up to 3 replicas): {parts}. Statuses "
        f"{seen['statuses']}, {seen['refused_without_retry_after']} refused without Retry-After, slowest answer "
        f"{seen['slowest_ms']:.0f} ms; replicas at the end {seen['replicas']}; budget of p99 {BUDGET_MS} ms."
    )


def _of(rows: list[dict[str, Any]], contender: str, shape: str, clients: int) -> dict[str, Any]:
    return next(r for r in rows if (r["contender"], r["shape"], r["clients"]) == (contender, shape, clients))


def _between(rows: list[Any], step: dict[str, Any]) -> list[Any]:
    return [row for row in rows if step["began"] <= row[0] < step["ended"]]


def _percentiles(ms: list[float]) -> dict[str, float]:
    if not ms:
        return dict.fromkeys(("p50", "p90", "p99"), float("nan"))
    return {f"p{q}": float(np.percentile(ms, q)) for q in (50, 90, 99)}
