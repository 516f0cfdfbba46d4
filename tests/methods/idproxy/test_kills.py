"""Coarse alignment that is killed repeatedly at random moments gives the same result."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from coldstart.config import MetricsLog
from coldstart.encoders import create_tiny_mllm

RANK = Path(__file__).with_name("coarse_rank.py")
RANKS = 2
KILLS = 50
STEPS = 90
COARSE = {"batch": 16, "epochs": STEPS // 2, "checkpoint_every": 2, "learning_rate": 1e-3, "zero_stage": 2}


def start(root: Path, name: str, attempt: int) -> list[subprocess.Popen[bytes]]:
    """The ranks of one attempt."""
    file = root / f"{name}-{attempt}.json"
    file.write_text(
        json.dumps(
            [
                {
                    "name": name,
                    "coarse": COARSE,
                    "dtype": "float32",
                    "stop_after": None,
                    "corrupted": None,
                    "leave_after": None,
                }
            ]
        )
    )
    environment = dict(os.environ, OMP_NUM_THREADS="1", DS_ACCELERATOR="cpu", LOCAL_RANK="0")
    lines = [[sys.executable, RANK, file, str(rank), str(RANKS), root] for rank in range(RANKS)]
    return [subprocess.Popen(line, env=environment, stderr=subprocess.DEVNULL) for line in lines]


def lines(root: Path, name: str) -> list[dict[str, Any]]:
    file = root / name / "metrics.jsonl"
    return [line for line in MetricsLog(file).read() if "note" not in line] if file.is_file() else []


def kill_sometime(root: Path, name: str, ranks: list[subprocess.Popen[bytes]], chance: random.Random) -> bool:
    """Lets an attempt run some steps, kills one rank or all, and waits until all ranks have ended.

    Returns:
        Whether it was killed before it had finished.
    """
    target = len(lines(root, name)) + chance.randint(1, 3)
    while all(rank.poll() is None for rank in ranks) and len(lines(root, name)) < target:
        time.sleep(0.01)
    # Anywhere in a step: in its passes, its exchange, or while a checkpoint is being written.
    time.sleep(chance.random() * 0.2)
    chosen = ranks if chance.random() < 0.3 else [chance.choice(ranks)]
    killed = [rank for rank in chosen if rank.poll() is None]
    for rank in killed:
        rank.send_signal(signal.SIGKILL)
    codes = [rank.wait(120) for rank in ranks]
    return any(codes)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_kills_at_random_moments_change_nothing(tmp_path: Path):
    create_tiny_mllm(tmp_path / "mllm", ["red round vase blue lamp steel"] * 9, image_size=32, seed=1)
    assert [rank.wait(600) for rank in start(tmp_path, "quiet", 0)] == [0] * RANKS
    chance = random.Random(17)
    kills = attempts = 0
    while kills < KILLS and not (tmp_path / "killed" / "result" / "encoder.json").is_file():
        attempts += 1
        kills += kill_sometime(tmp_path, "killed", start(tmp_path, "killed", attempts), chance)
    if not (tmp_path / "killed" / "result" / "encoder.json").is_file():
        assert [rank.wait(600) for rank in start(tmp_path, "killed", attempts + 1)] == [0] * RANKS
    print(f"{kills} kills, {len(lines(tmp_path, 'killed'))} steps taken for {STEPS}")
    assert kills >= KILLS * 0.8

    quiet, killed = ({line["done"]: line for line in lines(tmp_path, name)} for name in ("quiet", "killed"))
    assert sorted(killed) == sorted(quiet) == list(range(1, STEPS + 1))
    for done, line in quiet.items():
        # The loss is of the rows of the step alone, so equal losses are equal rows: none lost, none doubled.
        assert killed[done]["loss"] == line["loss"], done
    for weights in ("head.safetensors", "checkpoint/model.safetensors"):
        before, after = (load_file(tmp_path / name / "result" / weights) for name in ("quiet", "killed"))
        assert before.keys() == after.keys()
        for name, weight in before.items():
            assert torch.equal(after[name], weight), name
    assert np.all(np.isfinite([line["loss"] for line in quiet.values()]))
