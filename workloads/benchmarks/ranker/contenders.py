"""Who is compared, and how one of them is trained once: a program of its own, in an environment of its own."""

import hashlib
import json
import os
import subprocess
import sys
import venv
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from coldstart.config import Recipe, UserError, digest
from workloads.benchmarks.ranker.rows import Rows

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
PEERS = {"torch-rechub": ("torch-rechub==0.9.0", "peer_rechub.py"), "FuxiCTR": ("fuxictr==2.3.10", "peer_fuxictr.py")}
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**28)}
"""What our ranks are started with, so that freed memory stays with the process; the peers get it too."""
SECONDS_BETWEEN_LOOKS = 2.0
"""At the memory of a program; looking takes time from the cores that are measured."""
WHAT_OURS_IS = ("platform/coldstart/data", "platform/coldstart/rankers", "platform/coldstart/training")


@dataclass(frozen=True)
class Contender:
    """A model of a library; `library` is None for ours."""

    model: str
    library: str | None = None

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.library or 'coldstart'} {self.model}"

    def code(self) -> str:
        """Digest of the code whose change makes earlier results of this contender worthless."""
        if self.library is None:
            return _digest_of(path for part in WHAT_OURS_IS for path in (ROOT / part).rglob("*.py"))
        requirement, program = PEERS[self.library]
        return requirement + _digest_of([HERE / "peer.py", HERE / program])


CONTENDERS = (
    Contender("din"),
    Contender("dcn_v2"),
    Contender("din_dcn"),
    Contender("transformer"),
    Contender("din", "torch-rechub"),
    Contender("dcn_v2", "torch-rechub"),
    Contender("din", "FuxiCTR"),
)


@dataclass(frozen=True)
class Outcome:
    """What a contender's program leaves.

    Attributes:
        valid_gauc: By epoch.
        epoch_seconds: By epoch, training alone.
        score_seconds: For the test rows, from the files to the last score; the model is in memory.
        peak_mb: Most memory that one process of the program held.
        peak_all_mb: Most that all of its processes held at one time, pages they share counted once.
        scores: Click probability of each test row.
    """

    valid_gauc: list[float]
    epoch_seconds: list[float]
    score_seconds: float
    peak_mb: float
    peak_all_mb: float
    scores: NDArray[np.float64]

    @classmethod
    def read(cls, path: Path) -> "Outcome":
        """From a directory that `Arena.attempt` filled."""
        return cls(**json.loads((path / "result.json").read_text()), scores=np.load(path / "scores.npy"))


class Arena:
    """Runs contenders on the same rows and remembers how they did.

    Args:
        recipe: Of our rankers; `run_dir` holds the dataset and gets everything else.
        rows: The dataset's impressions.
        shared: Settings that all contenders have in common.
        windows: User windows in a step of ours, so that a step has about as many rows as a peer's.
    """

    def __init__(self, recipe: Recipe, rows: Rows, shared: dict[str, Any], windows: int) -> None:
        self.recipe, self.rows, self.shared, self.windows = recipe, rows, shared, windows
        self.home = recipe.paths.runs

    def settle(self, contender: Contender, choice: dict[str, Any], seed: int) -> Outcome:
        """How a contender does with a choice of settings: from an earlier run of the same code, or by one thread."""
        ours = digest([self.windows, self.recipe.ranker]) if contender.library is None else None
        known = digest([self.rows.digest, contender.name, contender.code(), self.shared, ours, choice, seed])
        path = self.recipe.run_dir / "outcomes" / known[:24]
        if not (path / "result.json").is_file():
            self._run(contender, {**self.shared, **choice, "seed": seed, "threads": 1, "ray": False}, path)
        return Outcome.read(path)

    def time(self, contender: Contender, choice: dict[str, Any], seed: int, *, epochs: int) -> Outcome:
        """A run that is timed, never remembered; a peer gets as many threads as our workers have together."""
        path = self.recipe.run_dir / "timed" / contender.name.replace(" ", "-")
        task = {**self.shared, **choice, "epochs": epochs, "patience": epochs}
        cluster = self.recipe.cluster
        threads = cluster.workers * cluster.threads_per_worker
        self._run(contender, {**task, "seed": seed, "threads": threads, "ray": True}, path)
        return Outcome.read(path)

    def _run(self, contender: Contender, task: dict[str, Any], out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        task |= {"model": contender.model, "out": str(out.absolute())}
        if contender.library is None:
            command = [sys.executable, "-m", "workloads.benchmarks.ranker.ours"]
            task |= {"recipe": self._our_recipe(task).model_dump(mode="json"), "train_rows": self.rows.train}
        else:
            command = [str(environment(contender.library, self.home)), str(HERE / PEERS[contender.library][1])]
            task |= {"rows": str(self.rows.path.absolute()), "vocabulary": self.rows.vocabulary}
        peaks = _run_watched(command, json.dumps(task), threads=task["threads"], log=out / "log.txt")
        result = json.loads((out / "result.draft").read_text()) | {"peak_mb": peaks[0], "peak_all_mb": peaks[1]}
        (out / "result.json").write_text(json.dumps(result))

    def _our_recipe(self, task: dict[str, Any]) -> Recipe:
        ranker = {name: task[name] for name in type(self.recipe.ranker).model_fields if name in task}
        ranker |= {"kind": task["model"], "users_per_step": self.windows, "weight_decay": task["l2"]}
        whole = self.recipe.model_dump(mode="json")
        return Recipe.model_validate(whole | {"seed": task["seed"], "ranker": whole["ranker"] | ranker})


def environment(library: str, home: Path) -> Path:
    """The interpreter of a peer's environment, made on first use with the versions that our constraints name."""
    place = home / "environments" / library
    if not (place / ".ready").is_file():
        venv.create(place, with_pip=True)
        wanted = ["--constraint", str(ROOT / "constraints.txt"), "torch", PEERS[library][0]]
        done = subprocess.run([place / "bin" / "pip", "install", "-qq", *wanted], capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"{PEERS[library][0]} could not be installed into {place}: {done.stderr.strip()[-500:]}")
        (place / ".ready").touch()
    return place / "bin" / "python"


def _run_watched(command: list[str], task: str, *, threads: int, log: Path) -> tuple[float, float]:
    """Runs a program to its end; returns the peak memory in MB of one of its processes and of all together."""
    env = {**os.environ, **ALLOCATOR, "OMP_NUM_THREADS": str(threads)}
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=stream, stderr=stream, env=env, text=True)
        assert process.stdin is not None
        process.stdin.write(task)
        process.stdin.close()
        peak = peak_of_all = 0.0
        while process.poll() is None:
            held = _memory(process.pid)
            peak, peak_of_all = max(peak, *held), max(peak_of_all, sum(held))
            with suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS_BETWEEN_LOOKS)
    if process.returncode:
        raise UserError(f"{' '.join(command)} failed; the end of {log}:\n{log.read_text()[-1500:]}")
    return peak, peak_of_all


def _memory(pid: int) -> list[float]:
    """Proportional set size in MB of a process and of each of its descendants."""
    held = [0.0]
    with suppress(psutil.NoSuchProcess):
        for member in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                held.append(member.memory_full_info().pss / 1e6)
    return held


def _digest_of(paths: Iterable[Path]) -> str:
    total = hashlib.sha256()
    for path in sorted(paths):
        total.update(path.read_bytes())
    return total.hexdigest()
