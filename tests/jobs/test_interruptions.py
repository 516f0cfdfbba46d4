"""Coarse alignment as a user runs it, on a cluster whose machines come and go."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DRAIN_NODE_REASON_PREEMPTION

from coldstart.config import MetricsLog, Recipe, dump_recipe, read_artifact, write_artifact
from coldstart.data.dataset import Dataset
from coldstart.encoders import Encoder
from coldstart.rankers import DinDcn, save_ranker

ROOT = Path(__file__).parents[2]
CPUS = 3
"""Of a rank; the machine that stays has two more, for data."""

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]


def recipe(runs: Path, name: str, **cluster: object) -> Recipe:
    return Recipe.model_validate(
        {
            "name": name,
            "seed": 3,
            "mature_events": 5,
            "paths": {"runs": runs},
            "cluster": {"workers": 1, "cpus_per_worker": CPUS, "resize_interval_s": 2, **cluster},
            "data": {"generated": {"items": 150, "users": 60, "events": 3000, "weeks": 2, "image_size": 32}},
            "ranker": {"embedding_dim": 8},
            "encoder": {"image_size": 32, "max_text_tokens": 12, "layer_groups": 2},
            "method": {
                "coarse": {
                    "batch": 16,
                    "epochs": 60,
                    "checkpoint_every": 4,
                    "learning_rate": 1e-4,
                }
            },
        }
    )


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One machine that stays, with room for one rank and for data."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": CPUS + 2, "include_dashboard": False})
    yield made
    made.shutdown()


class Run:
    """One recipe, run by the same command as often as it takes."""

    def __init__(self, settings: Recipe, cluster: Cluster) -> None:
        self.settings, self.cluster = settings, cluster
        self.file = settings.paths.runs / f"{settings.name}.yaml"
        self.file.write_text(dump_recipe(settings))
        self.metrics_log = MetricsLog(settings.run_dir / "metrics" / "align_coarse.jsonl")

    def start(self, program: str = "align_coarse") -> subprocess.Popen[str]:
        command = [sys.executable, "-m", f"workloads.{program}", "--recipe", str(self.file)]
        command += ["--address", self.cluster.address]
        environment = dict(os.environ, RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S="0.5")
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def finish(self, running: subprocess.Popen[str]) -> str:
        said = running.communicate(timeout=900)[0]
        assert running.returncode == 0, said[-3000:]
        return said

    def steps(self) -> list[dict[str, Any]]:
        return [line for line in self._lines() if "note" not in line and line["done"]]

    def notes(self) -> list[str]:
        return [line["note"] for line in self._lines() if "note" in line]

    def _lines(self) -> list[dict[str, Any]]:
        return self.metrics_log.read() if self.metrics_log.path.exists() else []

    def wait(self, until: Callable[[], object], running: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + 300
        while not until():
            assert running.poll() is None, running.communicate()[0][-3000:]
            assert time.monotonic() < deadline, self._lines()[-3:]
            time.sleep(0.02)

    def wait_for_steps(self, more: int, running: subprocess.Popen[str]) -> None:
        target = len(self.steps()) + more
        self.wait(lambda: len(self.steps()) >= target, running)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory, cluster: Cluster) -> Run:
    """A run of one rank that nothing has interrupted."""
    run = Run(recipe(tmp_path_factory.mktemp("runs"), "quiet"), cluster)
    run.finish(run.start("prepare"))
    dataset = read_artifact(run.settings.run_dir / "dataset", "dataset")
    torch.manual_seed(0)
    ranker = DinDcn(151, run.settings.ranker)
    ranker.trained[1:] = True
    ids = Dataset.open(dataset.path).items(["item_id"])["item_id"].to_pylist()
    with write_artifact(run.settings.run_dir / "ranker", "ranker", {"dataset": dataset.fingerprint}, {}) as draft:
        save_ranker(ranker, draft, ids)
    run.finish(run.start())
    return run


def another(quiet: Run, name: str, **cluster: object) -> Run:
    """A run on the same dataset and ranker."""
    run = Run(recipe(quiet.settings.paths.runs, name, **cluster), quiet.cluster)
    for kind in ("dataset", "ranker"):
        shutil.copytree(quiet.settings.run_dir / kind, run.settings.run_dir / kind)
    return run


def drain(cluster: Cluster, node: Any) -> None:
    """What a cloud's notice comes to: the machine takes no more work and will be gone in two minutes."""
    deadline = (time.time_ns() // 1_000_000) + 120_000
    accepted, why = GcsClient(address=cluster.address).drain_node(
        node.node_id, DRAIN_NODE_REASON_PREEMPTION, "spot", deadline
    )
    assert accepted, why


def assert_learnt_alike(run: Run, quiet: Run) -> None:
    """Equal losses are equal rows: those of a step are no others', and each counts once."""
    ours, whole = ({line["done"]: line["loss"] for line in of.steps()} for of in (run, quiet))
    assert sorted(ours) == sorted(whole)
    np.testing.assert_allclose(
        [ours[step] for step in sorted(ours)], [whole[step] for step in sorted(whole)], rtol=1e-3
    )
    Encoder.load(run.settings.run_dir / "encoder", "cpu")


def test_ranks_follow_machines_that_are_drained_added_and_lost(cluster: Cluster, quiet: Run) -> None:
    run = another(quiet, "elastic", workers=2, min_workers=1)
    first = cluster.add_node(num_cpus=CPUS)
    running = run.start()
    run.wait_for_steps(6, running)
    drain(cluster, first)
    run.wait(lambda: "2 ranks is continued with 1" in "".join(run.notes()), running)
    cluster.remove_node(first)
    run.wait_for_steps(3, running)
    # Up to here, and while the group grows, no step is taken twice.
    second = cluster.add_node(num_cpus=CPUS)
    run.wait(lambda: "1 ranks is continued with 2" in "".join(run.notes()), running)
    done = [line["done"] for line in run.steps()]
    assert done == list(range(1, len(done) + 1))
    run.wait_for_steps(6, running)
    cluster.remove_node(second, allow_graceful=False)
    said = run.finish(running)
    assert "is continued with 1" in run.notes()[-1]
    assert "note  align_coarse  preemption requested: saved a checkpoint after step" in said
    assert_learnt_alike(run, quiet)


def test_the_same_command_goes_on_after_its_driver_was_killed(quiet: Run) -> None:
    run = another(quiet, "driver")
    running = run.start()
    run.wait_for_steps(12, running)
    running.send_signal(signal.SIGKILL)
    running.wait()
    before = len(run.steps())
    run.finish(run.start())
    again = run.steps()[before:][0]["done"]
    assert 4 < again <= before + 1, again
    ours, whole = ({line["done"]: line["loss"] for line in of.steps()} for of in (run, quiet))
    assert ours == whole
