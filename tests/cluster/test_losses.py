"""What a submitted job on three nodes survives: a lost node, a lost head, a lost network, a killed driver."""

import json
import subprocess
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from coldstart.config import MetricsLog, Recipe, read_artifact
from tests.cluster.local_head import run_coldstart
from tests.cluster.node_jobs import CPUS, KINDS, recipe, start, submit, wait, write
from tests.cluster.nodes import Node, RayNodes

EVERY = 4
"""Steps between checkpoints."""
PARTITION_S = 20

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RayNodes]:
    yield from start(tmp_path, shared=True)


def long_recipe(cluster: RayNodes) -> Recipe:
    """Both ranks, the data and the driver fit on two of the three nodes."""
    method = {"coarse": {"batch": 16, "epochs": 20, "checkpoint_every": EVERY}, "fine": {"epochs": 2}}
    return recipe(cluster.run_path, "lost", method=method)


def begin(cluster: RayNodes, settings: Recipe) -> subprocess.Popen[str]:
    """The client of a submitted pipeline."""
    line = ["coldstart", "submit", "pipeline", "--recipe", write(cluster, settings), "--json"]
    return subprocess.Popen(line, env=cluster.client, cwd=cluster.logs, stdout=subprocess.PIPE, text=True)


def log_of(settings: Recipe, stage: str) -> MetricsLog:
    return MetricsLog(settings.run_dir / "metrics" / f"{stage}.jsonl")


def wait_for_step(settings: Recipe, step: int) -> None:
    wait(lambda: any(entry["done"] >= step for entry in log_of(settings, "align_coarse").read()))


def check_steps(settings: Recipe, losses: int = 1) -> None:
    """No step is missing, and every loss of a process repeats no more than the steps since a checkpoint."""
    entries = [entry for entry in log_of(settings, "align_coarse").read() if "loss" in entry]
    steps = [entry["done"] for entry in entries]
    assert sorted(set(steps)) == list(range(1, entries[-1]["total"] + 1))
    # A checkpoint is written while the next steps run, so up to two periods are repeated.
    assert len(steps) - len(set(steps)) <= losses * 2 * EVERY
    for kind in KINDS:
        read_artifact(settings.run_dir / kind, kind)


def check_survived(client: subprocess.Popen[str], settings: Recipe) -> None:
    """Waits for the end of the job."""
    printed, _ = client.communicate()
    assert json.loads(printed)["status"] == "SUCCEEDED", printed
    check_steps(settings)
    times = [entry["time"] for entry in log_of(settings, "align_coarse").read()]
    print(f"longest pause between two steps {max(after - before for before, after in pairwise(times)):.0f} s")


def busy_node(cluster: RayNodes, name: str) -> Node:
    """A node besides that of the driver which runs a process of that name."""
    found: list[Node] = []

    def look() -> bool:
        found[:] = [node for node in cluster.nodes[1:] if node.run("pgrep", "-f", name).returncode == 0]
        return bool(found)

    wait(look)
    return found[0]


@pytest.mark.parametrize(("stage", "process"), [("align_coarse", "ray::.*Train"), ("embed_items", "ray::MapWorker")])
def test_a_pipeline_goes_on_when_a_node_is_lost(cluster: RayNodes, stage: str, process: str) -> None:
    settings = long_recipe(cluster)
    client = begin(cluster, settings)
    if stage == "align_coarse":
        wait_for_step(settings, EVERY + 1)
    else:
        wait(lambda: bool(log_of(settings, stage).read()))
    busy_node(cluster, process).kill()
    check_survived(client, settings)


def test_a_pipeline_goes_on_after_a_partition(cluster: RayNodes) -> None:
    settings = long_recipe(cluster)
    client = begin(cluster, settings)
    wait_for_step(settings, EVERY + 1)
    node = busy_node(cluster, "ray::.*Train")
    node.disconnect()
    time.sleep(PARTITION_S)
    node.reconnect()
    check_survived(client, settings)


def test_a_retried_job_continues_where_its_killed_driver_was(cluster: RayNodes) -> None:
    settings = long_recipe(cluster)
    client = begin(cluster, settings)
    wait_for_step(settings, EVERY + 1)
    assert cluster.head.run("pkill", "-KILL", "-f", "coldstart run pipeline").returncode == 0
    lost = json.loads(client.communicate()[0])
    assert lost["status"] == "FAILED"
    again = run_coldstart(cluster.client, "retry", lost["job_id"], cwd=cluster.logs)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "continues after step" in again.stdout
    check_steps(settings)


def test_a_job_whose_head_is_lost_continues_on_another_cluster(cluster: RayNodes) -> None:
    settings = long_recipe(cluster)
    client = begin(cluster, settings)
    wait_for_step(settings, EVERY + 1)
    cluster.nodes.pop(0).kill()
    client.kill()
    client.communicate()
    (log,) = (settings.run_dir / "logs").glob("lost-pipeline-*.log")
    assert "align_coarse" in log.read_text()
    for node in cluster.nodes:
        node.run("pkill", "-KILL", "-f", "ray")
        node.started.clear()
    cluster.start_ray([2 * CPUS, 2 * CPUS])
    again = settings.model_copy(update={"submit": settings.submit.model_copy(update={"labels": {"node": "node1"}})})
    code, printed = submit(cluster, "pipeline", again)
    assert code == 0, printed
    assert "continues after step" in printed
    check_steps(settings)
