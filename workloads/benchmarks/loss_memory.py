"""Peak memory and time of the coarse loss against the batch: in tiles, and as the full matrix of scores.

Each size runs in a process of its own. Memory is what its resident set grows by, at its highest, during forward and
backward (on a GPU: allocated memory), inputs left out; seconds are those of the processor, of one thread (on a GPU: of
the clock). The slope is that of a straight line through both logarithms.

    make bench-loss
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor

from coldstart.alignment.contrastive import Targets, info_nce
from workloads.console import CONSOLE

SIZES = tuple(1024 * 2**power for power in range(6))
WIDTH, TEMPERATURE = 64, 0.07
MOST_PLAIN = 16_384
"""The full matrix and its copies take 3 GB here and four times that at the next size."""


def tiled(coarse: Tensor, targets: Targets) -> Tensor:
    """The loss as it is trained with."""
    return info_nce(coarse, targets, targets, temperature=TEMPERATURE).mean()


def plain(coarse: Tensor, targets: Targets) -> Tensor:
    """The same loss from the whole matrix of scores."""
    scores = coarse @ targets.rows.T / TEMPERATURE
    own = torch.arange(len(coarse), device=coarse.device)
    negative = targets.groups[:, None] != targets.groups[None, :]
    negative[own, own] = True
    return F.cross_entropy(scores.masked_fill(~negative, -math.inf), own)


KINDS: dict[str, Callable[[Tensor, Targets], Tensor]] = {"tiled": tiled, "plain": plain}


def problem(batch: int, device: str) -> tuple[Tensor, Targets]:
    """Random proxies and ID rows of a batch in which some items stand twice."""
    drawn = torch.Generator().manual_seed(batch)
    coarse, rows = (F.normalize(torch.randn(batch, WIDTH, generator=drawn), dim=-1).to(device) for _ in range(2))
    groups = torch.randint(10 * batch, (batch,), generator=drawn).to(device)
    return coarse.requires_grad_(), Targets(rows, groups)


def one(kind: str, batch: int, device: str) -> dict[str, float]:
    """Bytes at the peak above the inputs, median seconds of three, and the loss, in this process."""
    small, few = problem(256, device)
    KINDS[kind](small, few).backward()
    coarse, targets = problem(batch, device)
    before = _memory(device, start=True)
    loss = KINDS[kind](coarse, targets)
    loss.backward()
    peak = _memory(device) - before
    clock = time.perf_counter if device == "cuda" else time.process_time
    seconds = []
    for _ in range(3):
        began = clock()
        KINDS[kind](coarse, targets).backward()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(clock() - began)
    return {"bytes": peak, "seconds": statistics.median(seconds), "loss": loss.item()}


def _memory(device: str, *, start: bool = False) -> int:
    """Bytes in use at the `start`, from which the high-water mark counts; afterwards that mark."""
    if device == "cuda":
        if start:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated()
    if start:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def measure(kind: str, batch: int, device: str) -> dict[str, float]:
    """What `one` measures, in a fresh process."""
    # Freed memory goes back at once, so that the resident set is what is in use.
    environment = dict(os.environ, OMP_NUM_THREADS="1", MALLOC_MMAP_THRESHOLD_="65536")
    command = [sys.executable, "-m", "workloads.benchmarks.loss_memory", "--device", device, "--one", kind, str(batch)]
    told: dict[str, float] = json.loads(subprocess.check_output(command, env=environment))
    return told


def slope(sizes: list[int], values: list[float]) -> float:
    """Of the line of least squares through both logarithms."""
    return statistics.linear_regression([math.log(s) for s in sizes], [math.log(v) for v in values]).slope


def main() -> None:
    """Measures every size and prints a table to paste into RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--one", nargs=2, metavar=("KIND", "BATCH"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        kind, batch = arguments.one
        sys.stdout.write(json.dumps(one(kind, int(batch), arguments.device)))
        return
    found = {
        kind: {size: measure(kind, size, arguments.device) for size in SIZES if kind == "tiled" or size <= MOST_PLAIN}
        for kind in KINDS
    }
    table = Table("batch", title=f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {arguments.device}")
    for kind in KINDS:
        table.add_column(f"{kind}, MB")
        table.add_column(f"{kind}, s")
    table.add_column("losses differ by")
    for size in SIZES:
        cells = [
            [f"{row['bytes'] / 1e6:,.1f}", f"{row['seconds']:.3f}"] if (row := kind.get(size)) else ["", ""]
            for kind in found.values()
        ]
        both = [kind[size]["loss"] for kind in found.values() if size in kind]
        table.add_row(f"{size:,}", *cells[0], *cells[1], f"{max(both) - min(both):.1e}" if len(both) > 1 else "")
    slopes = {kind: slope(list(rows), [row["bytes"] for row in rows.values()]) for kind, rows in found.items()}
    table.add_row("slope", f"{slopes['tiled']:.2f}", "", f"{slopes['plain']:.2f}")
    CONSOLE.print(table)


if __name__ == "__main__":
    main()
