"""What the answers of the nodes mean, and what a node reports about a directory."""

import os
import time
from pathlib import Path

import pytest

from coldstart.config import Recipe
from coldstart.config.recipe import Cluster
from coldstart.jobs.node_probe import (
    NodeReport,
    filesystem_type,
    find_mllm_problem,
    find_storage_problem,
    find_versions,
    sees_marker,
)
from coldstart.jobs.preflight import compare_report, find_missing_resources

OWN = {"python": "3.11.7", "ray": "2.60.0"}
NODE = {"CPU": 4.0}


def report(**changes: object) -> NodeReport:
    fields = {"host": "node1", "versions": OWN, "time": 100.0, "shm_bytes": 2**31, "problems": {}}
    return NodeReport(**(fields | changes))  # type: ignore[arg-type]


def recipe(**cluster: object) -> Recipe:
    return Recipe(name="mine", cluster=Cluster(**cluster))  # type: ignore[arg-type]


def missing(attainable: dict[str, float], nodes: list[dict[str, float]], **cluster: object) -> list[str]:
    return [str(finding) for finding in find_missing_resources(recipe(**cluster), attainable, nodes)]


def test_a_node_like_the_driver_has_no_findings() -> None:
    assert compare_report("node1", report(), OWN, (99.0, 101.0)) == []


def test_each_finding_names_node_problem_and_fix() -> None:
    versions = {"python": "3.12.1", "ray": "2.60.0"}
    problems = {"storage": "/runs there is not the storage that the driver sees"}
    findings = compare_report("node1 (10.0.0.2)", report(versions=versions, problems=problems), OWN, (99.0, 101.0))
    storage, python = map(str, findings)
    assert storage.startswith("node1 (10.0.0.2): /runs there is not the storage")
    assert "mount the same POSIX" in storage
    assert "python 3.12.1, but the driver has 3.11.7; use one image" in python


def test_shared_memory_says_what_is_missing() -> None:
    (finding,) = compare_report("node1", report(shm_bytes=64 * 2**20), OWN, (99.0, 101.0))
    assert "/dev/shm has 64 MB: 192 MB missing; start the container with --shm-size" in str(finding)


@pytest.mark.parametrize(
    ("clock", "words"),
    [(105.9, None), (107.0, "6 s ahead of"), (94.1, None), (92.0, "7 s behind")],
)
def test_a_clock_is_wrong_only_beyond_the_time_that_the_answer_took(clock: float, words: str | None) -> None:
    findings = compare_report("node1", report(time=clock), OWN, (99.0, 101.0))
    assert [words in str(finding) for finding in findings] == ([] if words is None else [True])


def test_missing_resources_name_the_settings_and_the_amount(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing({"CPU": 4.0}, [NODE], workers=2) == []
    (cpus,) = missing({"CPU": 4.0}, [NODE], workers=4)
    assert "4 CPUs, but cluster.workers 4 x cluster.cpus_per_worker 1 + cluster.ray_data_cpus 2 = 6" in cpus
    assert "2 missing; lower cluster.workers, or add nodes" in cpus
    (gpus,) = missing({"CPU": 4.0}, [NODE], workers=1, embed_actors=2, gpus_per_worker=1)
    assert "0 GPUs" in gpus
    assert "2 missing" in gpus
    monkeypatch.setenv("COLDSTART_DRIVER_CPUS", "1")
    (driver,) = missing({"CPU": 4.0}, [NODE], workers=2)
    assert "submit.driver_cpus 1 = 5" in driver


def test_an_elastic_recipe_needs_its_minimum() -> None:
    assert missing({"CPU": 3.0}, [{"CPU": 3.0}], workers=2, min_workers=1) == []
    assert len(missing({"CPU": 3.0}, [{"CPU": 3.0}], workers=2)) == 1


def test_a_cluster_that_can_still_grow_is_not_refused() -> None:
    assert missing({"CPU": 64.0}, [NODE], workers=8, cpus_per_worker=6) == []
    (large,) = missing({"CPU": 64.0}, [NODE] * 16, workers=8, cpus_per_worker=6)
    assert "no node has 6 CPUs for one worker; the largest has 4: 2 missing" in large


def test_shared_storage_passes_and_shows_the_marker_of_the_node(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    marker.mkdir()
    (marker / "driver").write_text("marker")
    assert not sees_marker(marker, "node", seconds=0)
    assert find_storage_problem(marker, "node") is None
    assert sees_marker(marker, "node", seconds=0)


def test_storage_that_is_not_the_drivers_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coldstart.jobs.node_probe.STORAGE_SECONDS", 0.3)
    assert "is not the storage that the driver sees" in str(find_storage_problem(tmp_path / "marker", "node"))
    (tmp_path / "marker").mkdir()
    (tmp_path / "marker" / "driver").write_text("of another run")
    began = time.monotonic()
    assert "is not the storage that the driver sees" in str(find_storage_problem(tmp_path / "marker", "node"))
    assert time.monotonic() - began < 3


def test_a_bucket_mount_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "driver").write_text(tmp_path.name)
    monkeypatch.setattr("coldstart.jobs.node_probe.filesystem_type", lambda path: "fuse.s3fs s3fs")
    assert "bucket mounted as a file system (fuse.s3fs" in str(find_storage_problem(tmp_path, "node"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_read_only_storage_is_found(tmp_path: Path) -> None:
    (tmp_path / "driver").write_text(tmp_path.name)
    tmp_path.chmod(0o500)
    assert "does not allow what a run does with files" in str(find_storage_problem(tmp_path, "node"))


def test_the_file_system_of_a_path_is_named() -> None:
    assert filesystem_type(Path("/proc/self")).startswith("proc ")
    assert not filesystem_type(Path("/")).startswith("unknown")


def test_an_mllm_that_a_node_cannot_load_is_found(tmp_path: Path) -> None:
    assert find_mllm_problem("tiny") is None
    assert "has no config.json" in str(find_mllm_problem(str(tmp_path)))
    (tmp_path / "config.json").write_text("{}")
    assert find_mllm_problem(str(tmp_path)) is None


def test_versions_change_with_the_code() -> None:
    versions = find_versions()
    assert versions == find_versions()
    assert versions["ray"] != "missing"
    assert versions["coldstart"].startswith("code ")
