"""Results of the competitors as a Markdown section."""

import platform
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import psutil

from coldstart.metrics import clicks as metrics
from workloads.benchmarks.ranker.competitors import Competitor, RunResult
from workloads.benchmarks.ranker.impressions import ImpressionFiles
from workloads.benchmarks.results_page import commit

COLUMNS = (
    *("model", "library", "train rows/s", "x peer", "score rows/s", "x peer", "peak MB (all)"),
    *("AUC", "GAUC", "logloss", "tuned to"),
)


@dataclass(frozen=True)
class ResultRow:
    """One competitor's row.

    Attributes:
        competitor: Model and library.
        choice: Settings chosen from the grid.
        train_rate: Rows per second of training, median over the timed epochs without the first of each run.
        score_rate: Rows per second of scoring, median over the timed runs.
        peak_mb: Peak memory of the largest process, maximum over the timed runs.
        peak_all_mb: Peak memory of all processes together, maximum over the timed runs.
        auc: Mean and standard deviation over seeds on the test rows.
        gauc: Mean and standard deviation over seeds.
        logloss: Mean and standard deviation over seeds.
    """

    competitor: Competitor
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
        competitor: Competitor,
        choice: dict[str, Any],
        rows: ImpressionFiles,
        seeds: Sequence[RunResult],
        timed: Sequence[RunResult],
    ) -> "ResultRow":
        """Aggregates the runs of a competitor."""
        with np.load(rows.path / "test.npz") as table:
            user, label = table["user"], table["label"]
        steady = [seconds for run in timed for seconds in run.epoch_seconds[1:]]
        return cls(
            competitor,
            choice,
            rows.train / statistics.median(steady),
            rows.test / statistics.median(run.score_seconds for run in timed),
            max(run.peak_mb for run in timed),
            max(run.peak_all_mb for run in timed),
            _spread(metrics.auc(label, run.scores) for run in seeds),
            _spread(metrics.gauc(user, label, run.scores) for run in seeds),
            _spread(metrics.logloss(label, run.scores) for run in seeds),
        )


def section(result_rows: Sequence[ResultRow], about: str) -> str:
    """A dated Markdown section; ratios are to the fastest peer with the same model, or with DIN if no peer has it."""
    memory = psutil.virtual_memory().total / 2**30
    machine = f"{psutil.cpu_count()} cores ({platform.machine()}), {memory:.0f} GiB, no GPU"
    lines = [
        f"## {datetime.now(UTC):%Y-%m-%d}, rankers against peers, {machine}",
        "",
        f"Commit {commit()}. {about}",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
    ]
    for row in result_rows:
        cells = [
            row.competitor.model,
            row.competitor.library or "coldstart",
            f"{row.train_rate:,.0f}",
            f"{row.train_rate / _fastest_peer(result_rows, row, 'train_rate'):.1f}",
            f"{row.score_rate:,.0f}",
            f"{row.score_rate / _fastest_peer(result_rows, row, 'score_rate'):.1f}",
            f"{row.peak_mb:,.0f} ({row.peak_all_mb:,.0f})",
            *(f"{mean:.4f} ± {deviation:.4f}" for mean, deviation in (row.auc, row.gauc, row.logloss)),
            ", ".join(f"{name} {value:g}" for name, value in row.choice.items()),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _fastest_peer(result_rows: Sequence[ResultRow], row: ResultRow, rate: str) -> float:
    peers = [other for other in result_rows if other.competitor.library is not None]
    same = [other for other in peers if other.competitor.model == row.competitor.model]
    rates: list[float] = [
        getattr(other, rate) for other in same or [other for other in peers if other.competitor.model == "din"]
    ]
    return max(rates)


def _spread(values: Iterable[float]) -> tuple[float, float]:
    samples = list(values)
    return statistics.mean(samples), statistics.stdev(samples)
