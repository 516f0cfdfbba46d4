"""Submitted jobs on three nodes with separate disks and one shared run path, and what goes wrong there."""

from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from coldstart.config import write_artifact
from tests.cluster.local_head import run_coldstart
from tests.cluster.node_jobs import figures, recipe, start, submit, write
from tests.cluster.nodes import RayNodes

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayNodes]:
    yield from start(tmp_path_factory.mktemp("shared"), shared=True)


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


def test_another_version_of_a_package_is_named_with_its_node(cluster: RayNodes) -> None:
    (installed,) = [file for file in metadata.files("safetensors") or () if file.name == "METADATA"]
    described, version = installed.read_text(), metadata.version("safetensors")
    other = cluster.run_path / "METADATA"  # nodes have their own /tmp
    other.write_text(described.replace(f"\nVersion: {version}\n", "\nVersion: 0.0.1\n"))
    node, path = cluster.nodes[2], str(installed.locate())
    assert node.run("mount", "--bind", str(other), path).returncode == 0
    try:
        code, printed = submit(cluster, "train_ranker", recipe(cluster.run_path, "versions"))
    finally:
        node.run("umount", path)
    assert code == 1, printed
    assert f"{node.name} ({node.address}): safetensors 0.0.1, but the driver has {version}" in printed
    assert "use one image or one environment on all nodes" in printed


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
