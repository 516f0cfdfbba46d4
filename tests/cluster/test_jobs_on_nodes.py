"""Submitted jobs on three nodes with separate disks and one shared run path, and what goes wrong there."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coldstart.config import MetricsLog, Recipe, dump_recipe, read_artifact, write_artifact
from tests.cluster.local_head import run_coldstart
from tests.cluster.nodes import Node, RayNodes, missing, ray_nodes

CPUS = 3
"""Of a node; a rank takes two, so that two ranks run on different nodes."""
KINDS = ("dataset", "ranker", "encoder", "item_table", "scorer")

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800)]


def recipe(runs: Path, name: str, **settings: Any) -> Recipe:
    """A run of seconds whose driver stays on the head."""
    return Recipe.model_validate(
        {
            "name": name,
            "seed": 3,
            "mature_events": 5,
            "paths": {"runs": runs},
            "cluster": {"workers": 2, "cpus_per_worker": 2, "ray_data_cpus": 1, "embed_actors": 3},
            "data": {"generated": {"items": 150, "users": 60, "events": 3000, "weeks": 2, "image_size": 32}},
            "ranker": {"embedding_dim": 8, "epochs": 2, "windows_per_step": 16},
            "encoder": {"image_size": 32, "max_text_tokens": 12, "layer_groups": 2},
            "method": {
                "coarse": {"batch": 16, "epochs": 2, "checkpoint_every": 4},
                "fine": {"epochs": 2},
            },
            "evaluation": {"num_resamples": 20},
            "submit": {"labels": {"node": "node0"}, "driver_memory_gb": 0.5},
            **settings,
        }
    )


def start(directory: Path, *, shared: bool) -> Iterator[RayNodes]:
    if reason := missing():
        pytest.skip(reason)
    (directory / "runs").mkdir()
    with ray_nodes(directory, directory / "runs", shared=shared) as nodes:
        nodes.start_ray([CPUS] * 3)
        yield nodes


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayNodes]:
    yield from start(tmp_path_factory.mktemp("shared"), shared=True)


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[RayNodes]:
    """Nodes for a test that kills some."""
    yield from start(tmp_path, shared=True)


def write(cluster: RayNodes, settings: Recipe) -> str:
    """The recipe on the disk of the submitter, which no node sees."""
    file = cluster.logs / f"{settings.name}.yaml"
    file.write_text(dump_recipe(settings))
    return str(file)


def submit(cluster: RayNodes, job: str, settings: Recipe, *arguments: str, **variables: str) -> tuple[int, str]:
    """Exit code, and what the client printed."""
    line = ("submit", job, "--recipe", write(cluster, settings), *arguments)
    done = run_coldstart(cluster.client, *line, cwd=cluster.logs, **variables)
    return done.returncode, done.stdout + done.stderr


def wait(condition: Callable[[], bool], seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def figures(settings: Recipe) -> dict[str, str]:
    return {kind: read_artifact(settings.run_dir / kind, kind).fingerprint for kind in KINDS}


def test_the_doctor_asks_every_node_and_finds_nothing(cluster: RayNodes) -> None:
    code, printed = submit(cluster, "doctor", recipe(cluster.run_path, "healthy"))
    assert code == 0, printed
    assert "recipe 'healthy' can run on node0, node1, node2" in printed
    assert not list(cluster.run_path.glob(".preflight-*"))


def test_missing_cpus_unshared_storage_and_a_dead_mlflow_are_named_with_node_and_fix(cluster: RayNodes) -> None:
    broken = recipe(
        Path("/tmp/own-of-each-node"),
        "broken",
        cluster={"workers": 8, "cpus_per_worker": 2, "ray_data_cpus": 1},
        registry={"tracking_uri": f"http://{cluster.gateway}:1"},
        submit={"labels": {"node": "node0"}, "driver_memory_gb": 0.5, "secrets": ["NOBODY_HAS_IT"]},
        ranker={"windows_per_step": 16},
    )
    code, printed = submit(cluster, "train_ranker", broken)
    assert code == 1, printed
    assert "submit.secrets: NOBODY_HAS_IT not set on node node0" in printed
    broken = broken.model_copy(update={"submit": recipe(cluster.run_path, "any").submit})
    code, printed = submit(cluster, "train_ranker", broken)
    assert code == 1, printed
    assert "cluster: 9 CPUs, but cluster.workers 8" in printed
    assert "= 18 are asked: 9 missing; lower cluster.workers" in printed
    for node in cluster.nodes:
        assert f"{node.name} ({node.address}): {cluster.gateway}:1 does not answer" in printed
    for node in cluster.nodes[1:]:
        assert f"{node.name} ({node.address}): /tmp/own-of-each-node there is not the storage" in printed
    assert "mount the same POSIX storage under paths.runs on every node" in printed


def test_a_wrong_token_is_refused_with_the_fix(cluster: RayNodes) -> None:
    code, printed = submit(cluster, "doctor", recipe(cluster.run_path, "token"), RAY_AUTH_TOKEN="0" * 64)
    assert code == 2, printed
    assert "with its token" in printed
    assert "Traceback" not in printed


@pytest.mark.slow
def test_a_stale_dataset_on_a_node_is_named_before_it_is_trained_on(cluster: RayNodes) -> None:
    settings = recipe(cluster.run_path, "stale")
    code, printed = submit(cluster, "prepare", settings)
    assert code == 0, printed
    with write_artifact(cluster.run_path / "old-copy", "dataset", {}, {"items": 1}):
        pass
    dataset = str(settings.run_dir / "dataset")
    for node in cluster.nodes[1:]:
        assert node.run("mount", "--bind", str(cluster.run_path / "old-copy"), dataset).returncode == 0
    try:
        code, printed = submit(cluster, "train_ranker", settings)
    finally:
        for node in cluster.nodes[1:]:
            node.run("umount", dataset)
    assert code == 1, printed
    assert "has another dataset" in printed
    assert any(f"node {node.name} has another dataset at {dataset}" in printed for node in cluster.nodes[1:])
    assert "mount the storage of paths.runs" in printed


@pytest.mark.slow
def test_the_pipeline_on_three_nodes_has_the_figures_of_one_node(cluster: RayNodes, tmp_path: Path) -> None:
    several, one = recipe(cluster.run_path, "same"), recipe(tmp_path, "same")
    code, printed = submit(cluster, "pipeline", several)
    assert code == 0, printed
    alone = {name: value for name, value in cluster.client.items() if not name.startswith("RAY_")}
    done = run_coldstart(alone, "run", "pipeline", "--recipe", write(cluster, one))
    assert done.returncode == 0, done.stdout + done.stderr
    assert figures(several) == figures(one)


def busy_node(cluster: RayNodes, name: str) -> Node:
    """A node besides that of the driver which runs a process of that name."""
    found: list[Node] = []

    def look() -> bool:
        found[:] = [node for node in cluster.nodes[1:] if node.run("pgrep", "-f", name).returncode == 0]
        return bool(found)

    wait(look)
    return found[0]


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "process"), [("align_coarse", "ray::.*Train"), ("embed_items", "ray::MapWorker")])
def test_a_pipeline_goes_on_when_a_node_is_lost(own_cluster: RayNodes, stage: str, process: str) -> None:
    long = {"coarse": {"batch": 16, "epochs": 20, "checkpoint_every": 4}, "fine": {"epochs": 2}}
    # What is left after the loss holds the driver, both ranks and the data.
    settings = recipe(own_cluster.run_path, "lost", method=long)
    line = ["coldstart", "submit", "pipeline", "--recipe", write(own_cluster, settings), "--json"]
    client = subprocess.Popen(line, env=own_cluster.client, cwd=own_cluster.logs, stdout=subprocess.PIPE, text=True)
    log = MetricsLog(settings.run_dir / "metrics" / f"{stage}.jsonl")
    wait(lambda: any(entry["done"] > (4 if stage == "align_coarse" else -1) for entry in log.read()))
    busy_node(own_cluster, process).kill()
    printed, _ = client.communicate()
    assert json.loads(printed)["status"] == "SUCCEEDED", printed
    steps = [entry["done"] for entry in MetricsLog(log.path).read() if "loss" in entry]
    if stage == "align_coarse":
        assert sorted(set(steps)) == list(range(1, steps[-1] + 1))
        assert len(steps) - len(set(steps)) <= 2 * 4
    assert set(figures(settings)) == set(KINDS)
