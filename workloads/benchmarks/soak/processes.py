"""The processes of a server: who they are, how much memory they hold, and their end."""

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
_OTHERS = {"ray::ProxyActor": "proxy", "ray::HAProxyManager": "proxy manager", "ray::ServeController": "controller"}
OF_RAY = ("controller", "gcs_server", "haproxy", "proxy", "proxy manager", "raylet")
"""They remember every replica that died, so they grow with the kills."""
SETTLE_S = 1200.0
"""What a process takes in its first minutes (imports, weights, warm caches, arenas of its threads) is not growth."""
_FEWEST = 8
_MOST_ALIKE = 0.99
"""Correlation of neighbours that is allowed for: more cannot be told from growth within half an hour."""
_ROUNDS, _SETTLED = 20, 1e-4


@dataclass(frozen=True)
class Growth:
    """Memory of the processes of one role.

    Attributes:
        processes: How many were watched long enough.
        megabytes: Median size.
        per_minute: MB per minute, within processes.
        error: Its standard error, with neighbouring samples taken as dependent.
    """

    processes: int
    megabytes: float
    per_minute: float
    error: float

    def flat_beside(self, control: "Growth | None") -> bool:
        """Whether the slope is not surely above that of processes which do nothing (within two standard errors)."""
        idle, noise = (control.per_minute, control.error) if control else (0.0, 0.0)
        return self.per_minute - idle <= 2 * math.hypot(self.error, noise)


class Family:
    """A server's process and all that descend from it.

    Args:
        root: Process id of the server.
        seed: Of who is killed.
        settle_s: Age from which on a process's memory is watched.
    """

    def __init__(self, root: int, seed: int = 17, *, settle_s: float = SETTLE_S) -> None:
        self._root, self._settle_s = psutil.Process(root), settle_s
        self._random = random.Random(seed)
        self._sizes: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)

    def roles(self) -> dict[psutil.Process, str]:
        """What each process does; those that are none of a server's are left out."""
        found = {self._root: "server"}
        for process in self._root.children(recursive=True):
            try:
                title = " ".join(process.cmdline()[:1])
            except psutil.Error:
                continue
            replica = _REPLICA.match(title)
            if replica:
                found[process] = replica["deployment"]
            elif title.startswith("ray::"):
                role = next((role for start, role in _OTHERS.items() if title.startswith(start)), None)
                if role:
                    found[process] = role
            elif title.rsplit("/", 1)[-1] in ("raylet", "gcs_server", "haproxy"):
                found[process] = title.rsplit("/", 1)[-1]
        return found

    def ray_address(self) -> str:
        """Where the Ray that the server started is to be joined."""
        raylet = next(process for process, role in self.roles().items() if role == "raylet")
        found = re.search(r"--gcs-address=(\S+)", " ".join(raylet.cmdline()))
        assert found is not None, "a raylet is told where its cluster is"
        return found[1]

    def sample(self) -> None:
        """Notes what every process holds; those that end meanwhile are left out."""
        now = time.monotonic()
        for process, role in self.roles().items():
            try:
                self._sizes[role, process.pid].append((now, held(process.pid)))
            except OSError:
                continue

    def kill_one(self, role: str) -> int | None:
        """Ends one replica of a deployment as a power cut would; its process id, or None if there is none.

        The eldest is spared while it is not alone: it is the one whose memory tells something.
        """
        replicas = sorted(
            (process for process, other in self.roles().items() if other == role), key=psutil.Process.create_time
        )
        if not replicas:
            return None
        victim = self._random.choice(replicas[1:] or replicas)
        victim.kill()
        return victim.pid

    def samples(self) -> dict[str, list[tuple[float, float]]]:
        """`role/process id` -> (s, MB) of every look at it."""
        return {f"{role}/{process}": samples for (role, process), samples in self._sizes.items()}

    def growth(self) -> dict[str, Growth]:
        """Role -> how its memory grew, of the roles that were watched long enough."""
        series: dict[str, list[np.ndarray]] = defaultdict(list)
        for (role, _), samples in self._sizes.items():
            rows = np.array(samples)
            rows = rows[rows[:, 0] > rows[0, 0] + self._settle_s]
            if len(rows) >= _FEWEST:
                series[role].append(rows)
        return {role: growth_of(rows) for role, rows in sorted(series.items())}


def held(process: int) -> float:
    """MB that a process alone holds; pages of files, which come and go with the pressure on memory, do not count."""
    status = Path(f"/proc/{process}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in status if line.startswith(("RssAnon:", "VmSwap:"))) / 1024


def growth_of(series: list[np.ndarray]) -> Growth:
    """One slope within the processes of a role, each given as [samples, (s, MB)].

    What a heap holds wanders, so that neighbouring samples are much alike; taken for independent, they would make
    growth of any wandering. Errors are autoregressive of order one here (Prais and Winsten 1954, iterated).
    """
    likeness = 0.0
    for _ in range(_ROUNDS):
        parts = [_whitened(rows, likeness) for rows in series]
        at, held = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        slope = float(at @ held) / float(at @ at)
        before, likeness = likeness, _likeness([rows[:, 1] - slope * rows[:, 0] for rows in series])
        if abs(likeness - before) < _SETTLED:
            break
    rest = held - slope * at
    variance = float(rest @ rest) / (len(rest) - len(series) - 2) / float(at @ at)
    size = float(np.median(np.concatenate([rows[:, 1] for rows in series])))
    return Growth(len(series), size, 60 * slope, 60 * math.sqrt(variance))


def _whitened(rows: np.ndarray, likeness: float) -> tuple[np.ndarray, np.ndarray]:
    """Seconds and MB [samples] less what the sample before foretells, and less their own level."""
    first = math.sqrt(1 - likeness**2)
    new = np.vstack([first * rows[:1], rows[1:] - likeness * rows[:-1]])
    level = np.full(len(rows), 1 - likeness)
    level[0] = first
    new -= np.outer(level, level @ new) / (level @ level)
    return new[:, 0], new[:, 1]


def _likeness(rests: list[np.ndarray]) -> float:
    """Correlation of neighbours, corrected for what fitting a line takes from it (after Kendall 1954)."""
    centred = [rest - rest.mean() for rest in rests]
    power = sum(float(rest[:-1] @ rest[:-1]) for rest in centred)
    found = sum(float(rest[1:] @ rest[:-1]) for rest in centred) / power if power else 0.0
    found += (2 + 4 * found) / float(np.mean([len(rest) for rest in rests]))
    return min(found, _MOST_ALIKE)
