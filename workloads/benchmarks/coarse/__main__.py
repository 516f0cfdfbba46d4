"""What launch and loop of the coarse stage cost, its memory by ZeRO stage, and how long checkpoints hold it up.

make bench-coarse

The memory of the loss against the batch is `make bench-loss`; a model of real size on a GPU is `coarse_gpu`.
"""

import argparse
import platform
import statistics
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from workloads.benchmarks.coarse import memory, overhead
from workloads.console import CONSOLE

PARTS = ("overhead", "memory", "checkpoints")
BUDGET = 0.025


def show_overhead(arguments: argparse.Namespace) -> None:
    """Rounds of the stage and of the plain script in turns."""
    with tempfile.TemporaryDirectory() as room:
        settings = overhead.recipe(
            Path(room),
            ranks=arguments.ranks,
            batch=arguments.batch,
            picture_size=arguments.picture_size,
            items=arguments.items,
        )
        overhead.make(settings)
        found = overhead.rounds(settings, arguments.rounds)
    told = overhead.summary(found)
    table = Table(
        "",
        "ms a step",
        "CPU ms a step",
        title=f"{arguments.ranks} ranks, {arguments.rounds} rounds, {told['steps']} steps each",
    )
    for name in told["seconds"]:
        table.add_row(name, f"{1000 * told['seconds'][name]:,.0f}", f"{1000 * told['cpu'][name]:,.0f}")
    CONSOLE.print(table)
    for name, what in (("overhead", "of time"), ("of_cpu", "of processor time, all processes")):
        spread = told[name]
        CONSOLE.print(f"{spread['median']:+.1%} {what} (rounds {spread['lowest']:+.1%} to {spread['highest']:+.1%})")
    CONSOLE.print(f"{told['at_best']:+.1%} of time in the fastest tenth of all steps; the budget is {BUDGET:.1%}")


def show_memory(arguments: argparse.Namespace) -> None:
    """Every ZeRO stage, in float32 and bfloat16, with everything trained and with adapters."""
    table = Table("trained", "dtype", "ZeRO", "measured GB", "planned GB", "planned / measured")
    for train, dtype in (("all", "float32"), ("all", "bfloat16"), ("adapters", "float32")):
        for row in memory.by_stage(train, dtype):
            cells = [f"{row['measured'] / 1e9:.2f}", f"{row['planned'] / 1e9:.2f}"]
            table.add_row(train, dtype, str(row["stage"]), *cells, f"{row['planned'] / row['measured']:.2f}")
        CONSOLE.print(f"[dim]{train} in {dtype}: measured[/]")
    CONSOLE.print(table)


def show_checkpoints(arguments: argparse.Namespace) -> None:
    """Written at once, and meanwhile."""
    found: dict[str, Any] = memory.stalls()
    for name in ("sync", "async"):
        seconds = found[name]
        CONSOLE.print(
            f"checkpoint of {found['bytes'] / 1e9:.2f} GB, {name}: training waits {statistics.median(seconds):.2f} s "
            f"({min(seconds):.2f} to {max(seconds):.2f})"
        )


def main() -> None:
    """Runs the parts and prints tables to paste into RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument(
        "--ranks", type=int, default=1, help="with fewer than cores, Ray's own processes do not take turns with them"
    )
    parser.add_argument("--batch", type=int, default=64, help="items of a step; it should take a second or more")
    parser.add_argument("--picture-size", type=int, default=128)
    parser.add_argument("--items", type=int, default=2400)
    arguments = parser.parse_args()
    CONSOLE.print(f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, ranks of one thread")
    shown = {"overhead": show_overhead, "memory": show_memory, "checkpoints": show_checkpoints}
    for part in arguments.only:
        shown[part](arguments)


if __name__ == "__main__":
    main()
