"""Measures the overhead of coarse alignment, its memory by ZeRO stage, and the stalls by checkpoints.

make bench-coarse

`make bench-loss` measures the memory of the loss; `coarse_gpu` measures a model of real size on a GPU.
"""

import argparse
import platform
import statistics
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from coldstart.jobs.progress import CONSOLE
from workloads.benchmarks.coarse import memory, overhead

PARTS = ("overhead", "memory", "checkpoints")
BUDGET = 0.025


def show_overhead(arguments: argparse.Namespace) -> None:
    """Alternating rounds of the stage and of the baseline script."""
    with tempfile.TemporaryDirectory() as room:
        settings = overhead.recipe(
            Path(room),
            ranks=arguments.ranks,
            batch=arguments.batch,
            image_size=arguments.image_size,
            items=arguments.items,
        )
        overhead.prepare_run(settings)
        results = overhead.rounds(settings, arguments.rounds)
    summary = overhead.summary(results)
    table = Table(
        "",
        "ms a step",
        "CPU ms a step",
        title=f"{arguments.ranks} ranks, {arguments.rounds} rounds, {summary['steps']} steps each",
    )
    for name in summary["seconds"]:
        table.add_row(name, f"{1000 * summary['seconds'][name]:,.0f}", f"{1000 * summary['cpu'][name]:,.0f}")
    CONSOLE.print(table)
    for name, label in (("overhead", "wall time"), ("cpu_overhead", "CPU time of all processes")):
        spread = summary[name]
        CONSOLE.print(f"{spread['median']:+.1%} {label} (rounds {spread['lowest']:+.1%} to {spread['highest']:+.1%})")
    CONSOLE.print(f"{summary['fastest']:+.1%} wall time in the fastest tenth of all steps; the budget is {BUDGET:.1%}")


def show_memory(arguments: argparse.Namespace) -> None:
    """Every ZeRO stage, in float32 and bfloat16, with all weights trained and with adapters."""
    table = Table("trained", "dtype", "ZeRO", "measured GB", "planned GB", "planned / measured")
    for train, dtype in (("all", "float32"), ("all", "bfloat16"), ("adapters", "float32")):
        for row in memory.by_stage(train, dtype):
            cells = [f"{row['measured'] / 1e9:.2f}", f"{row['planned'] / 1e9:.2f}"]
            table.add_row(train, dtype, str(row["stage"]), *cells, f"{row['planned'] / row['measured']:.2f}")
        CONSOLE.print(f"[dim]{train} in {dtype}: measured[/]")
    CONSOLE.print(table)


def show_checkpoints(arguments: argparse.Namespace) -> None:
    """Synchronous and background checkpoints."""
    results: dict[str, Any] = memory.stalls()
    for name in ("sync", "async"):
        seconds = results[name]
        CONSOLE.print(
            f"checkpoint of {results['bytes'] / 1e9:.2f} GB, {name}: training waits {statistics.median(seconds):.2f} s "
            f"({min(seconds):.2f} to {max(seconds):.2f})"
        )


def main() -> None:
    """Runs the parts and prints tables to paste into results/coarse.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument(
        "--ranks",
        type=int,
        default=1,
        help="use fewer than CPU cores, so that Ray's processes do not compete with them",
    )
    parser.add_argument("--batch", type=int, default=64, help="items of a step; it should take a second or more")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--items", type=int, default=2400)
    arguments = parser.parse_args()
    CONSOLE.print(f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, ranks of one thread")
    shown = {"overhead": show_overhead, "memory": show_memory, "checkpoints": show_checkpoints}
    for part in arguments.only:
        shown[part](arguments)


if __name__ == "__main__":
    main()
