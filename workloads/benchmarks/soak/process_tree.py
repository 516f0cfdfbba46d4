"""The process tree of a server: roles, private memory and its growth, and kills."""

import math
import random
import re
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

_REPLICA = re.compile(r"ray::ServeReplica:(?P<application>[^:]+):(?P<deployment>\w+)")
_RAY_ACTORS = {"ray::ProxyActor": "proxy", "ray::HAProxyManager": "proxy manager", "ray::ServeController": "controller"}
RAY_ROLES = ("controller", "gcs_server", "haproxy", "proxy", "proxy manager", "raylet")
"""Ray's own processes keep a record of every dead replica, so they grow with the kills."""
SETTLE_S = 1200.0
"""Memory that a process takes in its first minutes (imports, weights, warm caches, thread arenas) is not growth."""
_MIN_SAMPLES = 8
_MAX_AUTOCORRELATION = 0.99
"""Wandering with a higher autocorrelation looks like growth within half an hour."""
_MAX_ITERATIONS, _CONVERGED = 20, 1e-4


@dataclass(frozen=True)
class MemoryGrowth:
    """Memory of the processes of one role.

    Attributes:
        processes: Number of processes that were sampled long enough.
        megabytes: Median size.
        per_minute: Slope within processes, MB per minute.
        error: Standard error of the slope, which accounts for autocorrelated samples.
    """

    processes: int
    megabytes: float
    per_minute: float
    error: float

    def is_flat(self, control: "MemoryGrowth | None") -> bool:
        """Whether the slope is at most two standard errors above that of idle processes."""
        idle, noise = (control.per_minute, control.error) if control else (0.0, 0.0)
        return self.per_minute - idle <= 2 * math.hypot(self.error, noise)


class ProcessTree:
    """The process of a server and all its descendants.

    Args:
        root: Process id of the server.
        seed: Seed of the choice of processes to kill.
        settle_s: Age from which on the memory of a process counts, in seconds.
    """

    def __init__(self, root: int, seed: int = 17, *, settle_s: float = SETTLE_S) -> None:
        self._root, self._settle_s = psutil.Process(root), settle_s
        self._random = random.Random(seed)
        self._sizes: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)

    def roles(self) -> dict[psutil.Process, str]:
        """Returns the role of each process; processes without a role are left out."""
        roles = {self._root: "server"}
        for process in self._root.children(recursive=True):
            try:
                title = " ".join(process.cmdline()[:1])
            except psutil.Error:
                continue
            replica = _REPLICA.match(title)
            if replica:
                roles[process] = replica["deployment"]
            elif title.startswith("ray::"):
                role = next((role for prefix, role in _RAY_ACTORS.items() if title.startswith(prefix)), None)
                if role:
                    roles[process] = role
            elif title.rsplit("/", 1)[-1] in ("raylet", "gcs_server", "haproxy"):
                roles[process] = title.rsplit("/", 1)[-1]
        return roles

    def ray_address(self) -> str:
        """Returns the address of the Ray cluster that the server started."""
        raylet = next(process for process, role in self.roles().items() if role == "raylet")
        match = re.search(r"--gcs-address=(\S+)", " ".join(raylet.cmdline()))
        assert match is not None, "the raylet's command line has no --gcs-address"
        return match[1]

    def sample(self) -> None:
        """Records the private memory of every process; processes that end meanwhile are left out."""
        now = time.monotonic()
        for process, role in self.roles().items():
            try:
                self._sizes[role, process.pid].append((now, private_memory_mb(process.pid)))
            except OSError:
                continue

    def kill_one(self, role: str) -> int | None:
        """Kills one process of a role with SIGKILL and returns its id, or None if there is no such process.

        The oldest is spared while there are others, because its memory has been sampled for the longest time.
        """
        replicas = sorted(
            (process for process, its_role in self.roles().items() if its_role == role), key=psutil.Process.create_time
        )
        if not replicas:
            return None
        victim = self._random.choice(replicas[1:] or replicas)
        victim.kill()
        return victim.pid

    def samples(self) -> dict[str, list[tuple[float, float]]]:
        """Returns `role/process id` -> all samples (s, MB)."""
        return {f"{role}/{process}": samples for (role, process), samples in self._sizes.items()}

    def growth(self) -> dict[str, MemoryGrowth]:
        """Returns role -> growth of its memory, for the roles that were sampled long enough."""
        series: dict[str, list[np.ndarray]] = defaultdict(list)
        for (role, _), samples in self._sizes.items():
            rows = np.array(samples)
            rows = rows[rows[:, 0] > rows[0, 0] + self._settle_s]
            if len(rows) >= _MIN_SAMPLES:
                series[role].append(rows)
        return {role: fit_growth(rows) for role, rows in sorted(series.items())}


def private_memory_mb(process: int) -> float:
    """Returns the private memory of a process; file pages are not counted, because memory pressure evicts them."""
    status = Path(f"/proc/{process}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in status if line.startswith(("RssAnon:", "VmSwap:"))) / 1024


def fit_growth(series: list[np.ndarray]) -> MemoryGrowth:
    """Fits one slope within the processes of a role, each given as [samples, (s, MB)].

    The size of a heap wanders, so neighboring samples are correlated; errors of a fit that takes them as independent
    would be too small. The errors are autoregressive of order one (Prais and Winsten 1954, iterated).
    """
    correlation = 0.0
    for _ in range(_MAX_ITERATIONS):
        parts = [_whiten(rows, correlation) for rows in series]
        times, sizes = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        slope = float(times @ sizes) / float(times @ times)
        previous, correlation = correlation, _autocorrelation([rows[:, 1] - slope * rows[:, 0] for rows in series])
        if abs(correlation - previous) < _CONVERGED:
            break
    residuals = sizes - slope * times
    variance = float(residuals @ residuals) / (len(residuals) - len(series) - 2) / float(times @ times)
    size = float(np.median(np.concatenate([rows[:, 1] for rows in series])))
    return MemoryGrowth(len(series), size, 60 * slope, 60 * math.sqrt(variance))


def _whiten(rows: np.ndarray, correlation: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns seconds and MB [samples] without the part predicted by the previous sample and without the intercept."""
    first = math.sqrt(1 - correlation**2)
    whitened = np.vstack([first * rows[:1], rows[1:] - correlation * rows[:-1]])
    intercept = np.full(len(rows), 1 - correlation)
    intercept[0] = first
    whitened -= np.outer(intercept, intercept @ whitened) / (intercept @ intercept)
    return whitened[:, 0], whitened[:, 1]


def _autocorrelation(residuals: list[np.ndarray]) -> float:
    """Returns the lag-one correlation, corrected for the bias of residuals of a fitted line (after Kendall 1954)."""
    centered = [one - one.mean() for one in residuals]
    power = sum(float(one[:-1] @ one[:-1]) for one in centered)
    correlation = sum(float(one[1:] @ one[:-1]) for one in centered) / power if power else 0.0
    correlation += (2 + 4 * correlation) / float(np.mean([len(one) for one in residuals]))
    return min(correlation, _MAX_AUTOCORRELATION)
