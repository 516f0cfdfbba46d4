from pathlib import Path

import numpy as np
import pytest

from coldstart.data.batches import UserWindows
from coldstart.data.sequences import Sequences
from workloads.benchmarks.ranker.__main__ import BATCH, windows_per_step
from workloads.benchmarks.ranker.competitors import Competitor, RunResult
from workloads.benchmarks.ranker.impressions import ImpressionFiles
from workloads.benchmarks.ranker.report import ResultRow, section


def result_row(model: str, library: str | None, train: float, score: float) -> ResultRow:
    same = (0.7, 0.001)
    return ResultRow(Competitor(model, library), {"l2": 1e-4}, train, score, 500.0, 700.0, same, same, same)


def cells(text: str, name: str) -> list[list[str]]:
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    return [line for line in lines if line[0] == name]


def test_ratios_are_to_the_fastest_peer_with_the_model_or_else_to_the_fastest_din():
    rows = [
        result_row("din", None, 100, 90),
        result_row("dcn_v2", None, 100, 90),
        result_row("din_dcn", None, 80, 80),
        result_row("din", "A", 10, 30),
        result_row("din", "B", 20, 15),
        result_row("dcn_v2", "A", 50, 45),
    ]
    text = section(rows, "All of it.")
    assert [(line[3], line[5]) for line in cells(text, "din")] == [("5.0", "3.0"), ("0.5", "1.0"), ("1.0", "0.5")]
    assert [line[3] for line in cells(text, "dcn_v2")] == ["2.0", "1.0"]
    assert [line[3] for line in cells(text, "din_dcn")] == ["4.0"]
    assert "0.7000 ± 0.0010" in text
    assert "All of it." in text


def test_the_first_epoch_of_a_timed_run_is_not_counted(tmp_path: Path):
    user, label = np.repeat([0, 1], 3), np.array([0, 1, 1, 0, 0, 1])
    np.savez(tmp_path / "test.npz", user=user, label=label)
    good, bad = label * 0.8 + 0.1, 0.9 - label * 0.8
    rows = ImpressionFiles(tmp_path, "", train=1000, test=len(label), vocab_size=5)
    timed = [RunResult([], [50.0, 2.0], 1.0, 300.0, 400.0, good), RunResult([], [70.0, 4.0], 3.0, 200.0, 500.0, good)]
    seeds = [RunResult([], [], 0.0, 0.0, 0.0, scores) for scores in (good, bad)]
    found = ResultRow.of(Competitor("din"), {}, rows, seeds, timed)
    assert (found.train_rate, found.score_rate) == (1000 / 3, len(label) / 2)
    assert (found.peak_mb, found.peak_all_mb) == (300.0, 500.0)
    assert found.auc == pytest.approx((0.5, np.sqrt(0.5)))
    assert found.gauc == found.auc


def test_a_step_has_about_a_batch_of_targets():
    users, events = 200, 40
    total = users * events
    sequences = Sequences(
        np.arange(0, total + 1, events),
        np.ones(total, np.int32),
        np.zeros(total, np.int8),
        np.tile(np.arange(events), users),
        np.zeros(total, np.int8),
        [str(user) for user in range(users)],
    )
    windows = UserWindows(sequences, history=5, splits=[0])
    count = windows_per_step(windows, 2)
    assert count % 2 == 0
    assert abs(count * events - BATCH) <= events
