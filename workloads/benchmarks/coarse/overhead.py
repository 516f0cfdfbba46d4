"""Step time of the coarse stage, through Ray Train with all it watches, against the plain script of the same step."""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from coldstart.config import Journal, Recipe, write_artifact
from coldstart.data.dataset import Dataset
from coldstart.encoders import make_mllm
from coldstart.rankers import DinDcn, save_ranker
from workloads import align_coarse, prepare
from workloads.job import ray_cluster

WARM_UP = 3
"""Steps at the start of a round that are left out."""


def recipe(runs: Path, *, ranks: int, batch: int, picture_size: int, items: int) -> Recipe:
    """Ranks of one thread each, on generated items."""
    return Recipe.model_validate(
        {
            "name": "bench",
            "seed": 5,
            "paths": {"runs": runs},
            "data": {"generated": {"items": items, "users": 300, "events": 40 * items, "weeks": 2, "picture_size": 64}},
            "ranker": {"width": 32},
            "encoder": {"picture_size": picture_size, "layer_groups": 2},
            "coarse": {"min_events": 1, "batch": batch, "epochs": 1, "holdout": 0.01},
            "cluster": {"workers": ranks, "data_cpus": 2},
        }
    )


def make(settings: Recipe) -> None:
    """Dataset, an ID table of random rows, and the tiny MLLM."""
    with ray_cluster(settings):
        dataset = prepare.run(settings)
    torch.manual_seed(0)
    ids = Dataset.open(dataset.path).items(["item_id"])["item_id"].to_pylist()
    ranker = DinDcn(len(ids) + 1, settings.ranker)
    ranker.trained[1:] = True
    lineage = {"dataset": dataset.fingerprint}
    with write_artifact(settings.run_dir / "ranker", "ranker", lineage, {}) as draft:
        save_ranker(ranker, draft, ids)
    about = {"picture_size": settings.encoder.picture_size, "seed": settings.seed}
    with write_artifact(settings.run_dir / "mllm", "mllm", lineage, about) as draft:
        make_mllm(draft, Dataset.open(dataset.path).texts(), **about)


def ours(settings: Recipe) -> dict[str, Any]:
    """Seconds of the steps of the stage, processor seconds of all its processes, and its last loss."""
    shutil.rmtree(settings.run_dir / "encoder", ignore_errors=True)
    journal = settings.run_dir / "journals" / f"{align_coarse.STAGE}.jsonl"
    journal.unlink(missing_ok=True)
    command = [sys.executable, "-m", "workloads.benchmarks.coarse.overhead", str(_written(settings))]
    return _watched(command, Journal(journal))


def plain(settings: Recipe) -> dict[str, Any]:
    """The same of the plain script."""
    out = settings.run_dir / "plain.jsonl"
    out.unlink(missing_ok=True)
    ranks = str(settings.cluster.workers)
    module = ["--standalone", "--nproc-per-node", ranks, "-m", "workloads.benchmarks.coarse.plain"]
    command = [sys.executable, "-m", "torch.distributed.run", *module, str(_written(settings)), str(out)]
    return _watched(command, Journal(out))


def rounds(settings: Recipe, count: int) -> list[dict[str, Any]]:
    """Both in turns, the first of them changing."""
    kinds = [("ours", ours), ("plain", plain)]
    return [
        {name: run(settings) for name, run in (kinds if number % 2 == 0 else kinds[::-1])} for number in range(count)
    ]


def summary(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the rounds.

    Returns:
        `seconds` and `cpu` of a step by contender; `overhead` as a share of the plain script's median step with its
        `lowest` and `highest` round, the same `of_cpu`, and `at_best` that of the fastest tenth of all steps.
    """
    every = {name: [second for pair in found for second in pair[name]["seconds"]] for name in ("ours", "plain")}
    fastest = {name: float(np.quantile(values, 0.1)) for name, values in every.items()}
    wall = [statistics.median(pair["ours"]["seconds"]) / statistics.median(pair["plain"]["seconds"]) for pair in found]
    cpu = [pair["ours"]["cpu"] / pair["plain"]["cpu"] for pair in found]
    return {
        "seconds": {name: statistics.median(values) for name, values in every.items()},
        "cpu": {name: statistics.median(pair[name]["cpu"] for pair in found) for name in every},
        "overhead": _spread(wall),
        "of_cpu": _spread(cpu),
        "at_best": fastest["ours"] / fastest["plain"] - 1,
        "steps": len(every["ours"]),
    }


def _spread(ratios: list[float]) -> dict[str, float]:
    return {"median": statistics.median(ratios) - 1, "lowest": min(ratios) - 1, "highest": max(ratios) - 1}


def steps(ended: Sequence[float]) -> list[float]:
    """Seconds of each step; the last is left out, since an epoch's measurement follows it."""
    return [float(second) for second in np.diff(ended)[WARM_UP - 1 : -1]]


def _watched(command: list[str], journal: Journal) -> dict[str, Any]:
    """Runs a contender and looks at the processor time of its processes after each of its steps."""
    environment = dict(os.environ, OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", DS_ACCELERATOR="cpu")
    # What `training/launch.py` gives its ranks, so that it is not what is compared.
    environment |= {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**28)}
    lines: list[dict[str, Any]] = []
    used: list[float] = []
    with tempfile.TemporaryFile("w+") as told:
        process = subprocess.Popen(command, env=environment, stdout=told, stderr=subprocess.STDOUT)
        while process.poll() is None:
            for line in journal.follow():
                if "loss" in line:
                    lines.append(line)
                    used.append(_processor_seconds(process.pid))
            time.sleep(0.02)
        if process.returncode:
            told.seek(0)
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{told.read()[-3000:]}")
    counted = used[WARM_UP - 1 : -1]
    return {
        "seconds": steps([line["time"] for line in lines]),
        "cpu": (counted[-1] - counted[0]) / (len(counted) - 1),
        "loss": lines[-1]["loss"],
    }


def _processor_seconds(root: int) -> float:
    """Of a process and all that came from it, those that have ended included."""
    total = 0.0
    top = psutil.Process(root)
    for process in [top, *top.children(recursive=True)]:
        with suppress(psutil.Error):
            total += sum(process.cpu_times()[:4])
    return total


def _written(settings: Recipe) -> Path:
    path = settings.run_dir / "recipe.json"
    path.write_text(settings.model_dump_json())
    return path


if __name__ == "__main__":
    given = Recipe.model_validate_json(Path(sys.argv[1]).read_text())
    with ray_cluster(given):
        align_coarse.run(given)
