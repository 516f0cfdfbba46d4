"""The compared models, and how each is trained: in its own process and its own environment."""

import hashlib
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coldstart.config import Recipe, digest
from workloads.benchmarks.peers import ROOT, environment, run_watched
from workloads.benchmarks.ranker.impressions import ImpressionFiles

HERE = Path(__file__).parent
PEERS = {"torch-rechub": ("torch-rechub==0.9.0", "peer_rechub.py"), "FuxiCTR": ("fuxictr==2.3.10", "peer_fuxictr.py")}
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**28)}
"""Allocator settings of coldstart's ranks, which keep freed memory in the process; peers get the same."""
COLDSTART_SOURCES = ("platform/coldstart/data", "platform/coldstart/rankers", "platform/coldstart/training")


@dataclass(frozen=True)
class Competitor:
    """A model of a library; `library` is None for coldstart."""

    model: str
    library: str | None = None

    @property
    def name(self) -> str:
        """Display name."""
        return f"{self.library or 'coldstart'} {self.model}"

    def code(self) -> str:
        """Hash of the code on which cached results of this competitor depend."""
        if self.library is None:
            return _digest_of(path for part in COLDSTART_SOURCES for path in (ROOT / part).rglob("*.py"))
        requirement, program = PEERS[self.library]
        return requirement + _digest_of([HERE / "peer_program.py", HERE / program])


COMPETITORS = (
    Competitor("din"),
    Competitor("dcn_v2"),
    Competitor("din_dcn"),
    Competitor("transformer"),
    Competitor("din", "torch-rechub"),
    Competitor("dcn_v2", "torch-rechub"),
    Competitor("din", "FuxiCTR"),
)


@dataclass(frozen=True)
class RunResult:
    """Result of a competitor's program.

    Attributes:
        valid_gauc: Per epoch.
        epoch_seconds: Training time per epoch.
        score_seconds: Time to read and score the test rows, without loading the model.
        peak_mb: Peak memory of the largest process.
        peak_all_mb: Peak memory of all processes together; shared pages count once.
        scores: Click probability of each test row.
    """

    valid_gauc: list[float]
    epoch_seconds: list[float]
    score_seconds: float
    peak_mb: float
    peak_all_mb: float
    scores: NDArray[np.float64]

    @classmethod
    def read(cls, path: Path) -> "RunResult":
        """Reads the result from the output directory of a run."""
        return cls(**json.loads((path / "result.json").read_text()), scores=np.load(path / "scores.npy"))


class ExperimentRunner:
    """Runs competitors on the same rows and caches their results.

    Args:
        recipe: Of coldstart's rankers; `run_dir` contains the dataset and receives all outputs.
        rows: The dataset's impressions.
        shared: Settings of all competitors.
        windows: User windows per step of coldstart, so that a step has about as many rows as a peer's.
    """

    def __init__(self, recipe: Recipe, rows: ImpressionFiles, shared: dict[str, Any], windows: int) -> None:
        self.recipe, self.rows, self.shared, self.windows = recipe, rows, shared, windows
        self.home = recipe.paths.runs

    def run_cached(self, competitor: Competitor, choice: dict[str, Any], seed: int) -> RunResult:
        """Result of a competitor with one choice of settings: cached, or trained now with one thread."""
        own = digest([self.windows, self.recipe.ranker]) if competitor.library is None else None
        key = digest([self.rows.digest, competitor.name, competitor.code(), self.shared, own, choice, seed])
        path = self.recipe.run_dir / "results" / key[:24]
        if not (path / "result.json").is_file():
            self._run(competitor, {**self.shared, **choice, "seed": seed, "threads": 1, "ray": False}, path)
        return RunResult.read(path)

    def run_timed(self, competitor: Competitor, choice: dict[str, Any], seed: int, *, epochs: int) -> RunResult:
        """A timed run, never cached; a peer gets as many threads as coldstart's workers have in total."""
        path = self.recipe.run_dir / "timed" / competitor.name.replace(" ", "-")
        task = {**self.shared, **choice, "epochs": epochs, "patience": epochs}
        cluster = self.recipe.cluster
        threads = cluster.workers * cluster.threads_per_worker
        self._run(competitor, {**task, "seed": seed, "threads": threads, "ray": True}, path)
        return RunResult.read(path)

    def _run(self, competitor: Competitor, task: dict[str, Any], out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        task |= {"model": competitor.model, "out": str(out.absolute())}
        if competitor.library is None:
            command = [sys.executable, "-m", "workloads.benchmarks.ranker.coldstart_program"]
            task |= {"recipe": self._coldstart_recipe(task).model_dump(mode="json"), "train_rows": self.rows.train}
        else:
            requirement, program = PEERS[competitor.library]
            command = [str(environment(competitor.library, ["torch", requirement], self.home)), str(HERE / program)]
            task |= {"rows": str(self.rows.path.absolute()), "vocab_size": self.rows.vocab_size}
        variables = {**ALLOCATOR, "OMP_NUM_THREADS": str(task["threads"])}
        peaks = run_watched(command, log=out / "log.txt", text=json.dumps(task), variables=variables)
        result = json.loads((out / "result.draft").read_text()) | {"peak_mb": peaks[0], "peak_all_mb": peaks[1]}
        (out / "result.json").write_text(json.dumps(result))

    def _coldstart_recipe(self, task: dict[str, Any]) -> Recipe:
        ranker = {name: task[name] for name in type(self.recipe.ranker).model_fields if name in task}
        ranker |= {"kind": task["model"], "windows_per_step": self.windows, "weight_decay": task["l2"]}
        recipe = self.recipe.model_dump(mode="json")
        return Recipe.model_validate(recipe | {"seed": task["seed"], "ranker": recipe["ranker"] | ranker})


def _digest_of(paths: Iterable[Path]) -> str:
    total = hashlib.sha256()
    for path in sorted(paths):
        total.update(path.read_bytes())
    return total.hexdigest()
