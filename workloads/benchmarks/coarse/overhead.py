"""Step time of coarse alignment on Ray Train, against a plain DeepSpeed script of the same step."""

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

from coldstart.config import MetricsLog, Recipe, write_artifact
from coldstart.data.dataset import Dataset
from coldstart.encoders import create_tiny_mllm
from coldstart.jobs.runner import ray_cluster
from coldstart.jobs.stages import prepare
from coldstart.methods.idproxy import align_coarse
from coldstart.rankers import DinDcn, save_ranker

WARM_UP = 3
"""Steps at the start of a round that are not counted."""


def recipe(runs: Path, *, ranks: int, batch: int, image_size: int, items: int) -> Recipe:
    """A recipe for ranks of one thread each, on generated items."""
    return Recipe.model_validate(
        {
            "name": "bench",
            "seed": 5,
            "mature_events": 1,
            "paths": {"runs": runs},
            "data": {"generated": {"items": items, "users": 300, "events": 40 * items, "weeks": 2, "image_size": 64}},
            "ranker": {"embedding_dim": 32},
            "encoder": {"image_size": image_size, "layer_groups": 2},
            "method": {"coarse": {"batch": batch, "epochs": 1, "holdout_fraction": 0.01}},
            "cluster": {"workers": ranks, "ray_data_cpus": 2},
        }
    )


def prepare_run(settings: Recipe) -> None:
    """Creates the dataset, an ID table of random rows, and the tiny MLLM."""
    with ray_cluster(settings):
        dataset = prepare.run(settings)
    torch.manual_seed(0)
    ids = Dataset.open(dataset.path).items(["item_id"])["item_id"].to_pylist()
    ranker = DinDcn(len(ids) + 1, settings.ranker)
    ranker.trained[1:] = True
    lineage = {"dataset": dataset.fingerprint}
    with write_artifact(settings.run_dir / "ranker", "ranker", lineage, {}) as draft:
        save_ranker(ranker, draft, ids)
    metadata = {"image_size": settings.encoder.image_size, "seed": settings.seed}
    with write_artifact(settings.run_dir / "mllm", "mllm", lineage, metadata) as draft:
        create_tiny_mllm(draft, Dataset.open(dataset.path).texts(), **metadata)


def platform(settings: Recipe) -> dict[str, Any]:
    """Step seconds of the stage, CPU seconds of all its processes, and its last loss."""
    shutil.rmtree(settings.run_dir / "encoder", ignore_errors=True)
    metrics_log = settings.run_dir / "metrics" / f"{align_coarse.STAGE}.jsonl"
    metrics_log.unlink(missing_ok=True)
    command = [sys.executable, "-m", "workloads.benchmarks.coarse.overhead", str(_written(settings))]
    return _watched(command, MetricsLog(metrics_log))


def baseline(settings: Recipe) -> dict[str, Any]:
    """Like `platform`, for the DeepSpeed script."""
    out = settings.run_dir / "baseline.jsonl"
    out.unlink(missing_ok=True)
    ranks = str(settings.cluster.workers)
    module = ["--standalone", "--nproc-per-node", ranks, "-m", "workloads.benchmarks.coarse.deepspeed_baseline"]
    command = [sys.executable, "-m", "torch.distributed.run", *module, str(_written(settings)), str(out)]
    return _watched(command, MetricsLog(out))


def rounds(settings: Recipe, count: int) -> list[dict[str, Any]]:
    """Runs both in every round, in alternating order."""
    kinds = [("platform", platform), ("baseline", baseline)]
    return [
        {name: run(settings) for name, run in (kinds if number % 2 == 0 else kinds[::-1])} for number in range(count)
    ]


def summary(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the rounds.

    Returns:
        `seconds` and `cpu` of a step by program; `overhead` relative to the baseline's median step, with the `lowest`
        and `highest` round; `cpu_overhead` likewise; and `fastest`, the overhead in the fastest tenth of all steps.
    """
    names = ("platform", "baseline")
    every = {name: [second for pair in results for second in pair[name]["seconds"]] for name in names}
    fastest = {name: float(np.quantile(values, 0.1)) for name, values in every.items()}
    wall = [
        statistics.median(pair["platform"]["seconds"]) / statistics.median(pair["baseline"]["seconds"])
        for pair in results
    ]
    cpu = [pair["platform"]["cpu"] / pair["baseline"]["cpu"] for pair in results]
    return {
        "seconds": {name: statistics.median(values) for name, values in every.items()},
        "cpu": {name: statistics.median(pair[name]["cpu"] for pair in results) for name in every},
        "overhead": _spread(wall),
        "cpu_overhead": _spread(cpu),
        "fastest": fastest["platform"] / fastest["baseline"] - 1,
        "steps": len(every["platform"]),
    }


def _spread(ratios: list[float]) -> dict[str, float]:
    return {"median": statistics.median(ratios) - 1, "lowest": min(ratios) - 1, "highest": max(ratios) - 1}


def steps(ended: Sequence[float]) -> list[float]:
    """Seconds of each step, without the last, which includes the evaluation after the epoch."""
    return [float(second) for second in np.diff(ended)[WARM_UP - 1 : -1]]


def _watched(command: list[str], metrics_log: MetricsLog) -> dict[str, Any]:
    """Runs a program and reads the CPU time of its processes after each step."""
    environment = dict(os.environ, OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", DS_ACCELERATOR="cpu")
    # As `training/launch.py` sets for its ranks, so that both programs use the same allocator settings.
    environment |= {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**28)}
    lines: list[dict[str, Any]] = []
    cpu_seconds: list[float] = []
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        while process.poll() is None:
            for line in metrics_log.follow():
                if "loss" in line:
                    lines.append(line)
                    cpu_seconds.append(_processor_seconds(process.pid))
            time.sleep(0.02)
        if process.returncode:
            output.seek(0)
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{output.read()[-3000:]}")
    counted = cpu_seconds[WARM_UP - 1 : -1]
    return {
        "seconds": steps([line["time"] for line in lines]),
        "cpu": (counted[-1] - counted[0]) / (len(counted) - 1),
        "loss": lines[-1]["loss"],
    }


def _processor_seconds(root: int) -> float:
    """CPU seconds of a process and all its descendants, ended ones included."""
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
    loaded = Recipe.model_validate_json(Path(sys.argv[1]).read_text())
    with ray_cluster(loaded):
        align_coarse.run(loaded)
