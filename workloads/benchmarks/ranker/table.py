"""How the contenders did, as a section of RESULTS.md."""

import platform
import statistics
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from coldstart.evaluation import metrics
from workloads.benchmarks.ranker.contenders import Contender, Outcome
from workloads.benchmarks.ranker.rows import Rows

COLUMNS = (
    *("model", "library", "train rows/s", "x peer", "score rows/s", "x peer", "peak MB (all)"),
    *("AUC", "GAUC", "logloss", "tuned to"),
)


@dataclass(frozen=True)
class Standing:
    """One contender's line.

    Attributes:
        contender: Who.
        choice: What the grid chose.
        train_rate: Rows per second of training, median over the timed epochs but the first of each run.
        score_rate: Rows per second of scoring, median over the timed runs.
        peak_mb: Of one process, largest of the timed runs.
        peak_all_mb: Of all processes together, likewise.
        auc: Mean and standard deviation over seeds on the test rows.
        gauc: Likewise.
        logloss: Likewise.
    """

    contender: Contender
    choice: dict[str, Any]
    train_rate: float
    score_rate: float
    peak_mb: float
    peak_all_mb: float
    auc: tuple[float, float]
    gauc: tuple[float, float]
    logloss: tuple[float, float]

    @classmethod
    def of(
        cls,
        contender: Contender,
        choice: dict[str, Any],
        rows: Rows,
        seeds: Sequence[Outcome],
        timed: Sequence[Outcome],
    ) -> "Standing":
        """Sums up the runs of a contender."""
        with np.load(rows.path / "test.npz") as table:
            user, label = table["user"], table["label"]
        steady = [seconds for run in timed for seconds in run.epoch_seconds[1:]]
        return cls(
            contender,
            choice,
            rows.train / statistics.median(steady),
            rows.test / statistics.median(run.score_seconds for run in timed),
            max(run.peak_mb for run in timed),
            max(run.peak_all_mb for run in timed),
            _spread(metrics.auc(label, run.scores) for run in seeds),
            _spread(metrics.gauc(user, label, run.scores) for run in seeds),
            _spread(metrics.logloss(label, run.scores) for run in seeds),
        )


def section(standings: Sequence[Standing], about: str) -> str:
    """A dated Markdown section; a ratio is to the fastest peer with the same model, or with DIN where none has it."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True)
    memory = psutil.virtual_memory().total / 2**30
    machine = f"{psutil.cpu_count()} cores ({platform.machine()}), {memory:.0f} GiB, no GPU"
    lines = [
        f"## {datetime.now(UTC):%Y-%m-%d}, rankers against peers, {machine}",
        "",
        f"Commit {commit.stdout.decode().strip() or 'unknown'}. {about}",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
    ]
    for one in standings:
        cells = [
            one.contender.model,
            one.contender.library or "coldstart",
            f"{one.train_rate:,.0f}",
            f"{one.train_rate / _fastest_peer(standings, one, 'train_rate'):.1f}",
            f"{one.score_rate:,.0f}",
            f"{one.score_rate / _fastest_peer(standings, one, 'score_rate'):.1f}",
            f"{one.peak_mb:,.0f} ({one.peak_all_mb:,.0f})",
            *(f"{mean:.4f} ± {deviation:.4f}" for mean, deviation in (one.auc, one.gauc, one.logloss)),
            ", ".join(f"{name} {value:g}" for name, value in one.choice.items()),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _fastest_peer(standings: Sequence[Standing], one: Standing, rate: str) -> float:
    peers = [other for other in standings if other.contender.library is not None]
    same = [other for other in peers if other.contender.model == one.contender.model]
    rates: list[float] = [
        getattr(other, rate) for other in same or [other for other in peers if other.contender.model == "din"]
    ]
    return max(rates)


def _spread(values: Iterable[float]) -> tuple[float, float]:
    listed = list(values)
    return statistics.mean(listed), statistics.stdev(listed)
