"""Peak memory and time of the coarse loss by batch size: tiled, and with the full score matrix.

Each size runs in a separate process. Memory is the peak growth of the resident set during forward and backward (on a
GPU: allocated memory), without the inputs. Seconds are CPU seconds of one thread (on a GPU: wall time). The slope is
that of a straight line through both logarithms.

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

from coldstart.jobs.progress import CONSOLE
from coldstart.modules.info_nce import Targets, info_nce

SIZES = tuple(1024 * 2**power for power in range(6))
WIDTH, TEMPERATURE = 64, 0.07
MAX_FULL = 16_384
"""The full matrix and its copies take 3 GB at this size and four times that at the next one."""


def tiled(coarse: Tensor, targets: Targets) -> Tensor:
    """The loss used in training."""
    return info_nce(coarse, targets, targets, temperature=TEMPERATURE).mean()


def full_matrix(coarse: Tensor, targets: Targets) -> Tensor:
    """The same loss, computed from the full score matrix."""
    scores = coarse @ targets.rows.T / TEMPERATURE
    own = torch.arange(len(coarse), device=coarse.device)
    negative = targets.groups[:, None] != targets.groups[None, :]
    negative[own, own] = True
    return F.cross_entropy(scores.masked_fill(~negative, -math.inf), own)


KINDS: dict[str, Callable[[Tensor, Targets], Tensor]] = {"tiled": tiled, "full": full_matrix}


def problem(batch: int, device: str) -> tuple[Tensor, Targets]:
    """Random proxies and ID rows of a batch with some duplicate items."""
    generator = torch.Generator().manual_seed(batch)
    coarse, rows = (F.normalize(torch.randn(batch, WIDTH, generator=generator), dim=-1).to(device) for _ in range(2))
    groups = torch.randint(10 * batch, (batch,), generator=generator).to(device)
    return coarse.requires_grad_(), Targets(rows, groups)


def one(kind: str, batch: int, device: str) -> dict[str, float]:
    """Peak bytes above the inputs, median seconds of three runs, and the loss, in this process."""
    KINDS[kind](*problem(256, device)).backward()
    coarse, targets = problem(batch, device)
    before = _memory(device, start=True)
    loss = KINDS[kind](coarse, targets)
    loss.backward()
    peak = _memory(device) - before
    clock = time.perf_counter if device == "cuda" else time.process_time
    seconds = []
    for _ in range(3):
        start = clock()
        KINDS[kind](coarse, targets).backward()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(clock() - start)
    return {"bytes": peak, "seconds": statistics.median(seconds), "loss": loss.item()}


def _memory(device: str, *, start: bool = False) -> int:
    """Bytes in use, resetting the peak, with `start`; otherwise the peak since then."""
    if device == "cuda":
        if start:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated()
    if start:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def measure(kind: str, batch: int, device: str) -> dict[str, float]:
    """Result of `one` in a new process."""
    # Freed memory is returned at once, so that the resident set is the memory in use.
    environment = dict(os.environ, OMP_NUM_THREADS="1", MALLOC_MMAP_THRESHOLD_="65536")
    command = [sys.executable, "-m", "workloads.benchmarks.loss_memory", "--device", device, "--one", kind, str(batch)]
    result: dict[str, float] = json.loads(subprocess.check_output(command, env=environment))
    return result


def slope(sizes: list[int], values: list[float]) -> float:
    """Slope of the least-squares line through both logarithms."""
    return statistics.linear_regression([math.log(s) for s in sizes], [math.log(v) for v in values]).slope


def main() -> None:
    """Measures every size and prints a table to paste into results/coarse.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--one", nargs=2, metavar=("KIND", "BATCH"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        kind, batch = arguments.one
        sys.stdout.write(json.dumps(one(kind, int(batch), arguments.device)))
        return
    results = {
        kind: {size: measure(kind, size, arguments.device) for size in SIZES if kind == "tiled" or size <= MAX_FULL}
        for kind in KINDS
    }
    table = Table("batch", title=f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {arguments.device}")
    for kind in KINDS:
        table.add_column(f"{kind}, MB")
        table.add_column(f"{kind}, s")
    table.add_column("loss difference")
    for size in SIZES:
        cells = [
            [f"{row['bytes'] / 1e6:,.1f}", f"{row['seconds']:.3f}"] if (row := kind.get(size)) else ["", ""]
            for kind in results.values()
        ]
        losses = [kind[size]["loss"] for kind in results.values() if size in kind]
        table.add_row(f"{size:,}", *cells[0], *cells[1], f"{max(losses) - min(losses):.1e}" if len(losses) > 1 else "")
    slopes = {kind: slope(list(rows), [row["bytes"] for row in rows.values()]) for kind, rows in results.items()}
    table.add_row("slope", f"{slopes['tiled']:.2f}", "", f"{slopes['full']:.2f}")
    CONSOLE.print(table)


if __name__ == "__main__":
    main()
