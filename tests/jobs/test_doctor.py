"""The doctor on a local Ray; on several nodes: tests/cluster/test_jobs_on_nodes.py."""

import json
from pathlib import Path

import pytest

from coldstart.config import Recipe
from coldstart.config.recipe import Cluster
from coldstart.jobs.doctor import examine

pytestmark = pytest.mark.ray


def recipe(runs: Path, workers: int) -> Recipe:
    cluster = Cluster(workers=workers, ray_data_cpus=1)
    return Recipe.model_validate({"name": "mine", "paths": {"runs": runs}, "cluster": cluster})


def test_a_cluster_that_can_run_the_recipe(local_ray: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    examine(recipe(tmp_path, 1), None, as_json=False)
    assert "recipe 'mine' can run on " in capsys.readouterr().out


def test_what_is_missing_is_exit_code_1(local_ray: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        examine(recipe(tmp_path, 64), None, as_json=True)
    assert stop.value.code == 1
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert finding["node"] == "cluster"
    assert "cluster.workers 64" in finding["what"]
    assert "lower cluster.workers" in finding["fix"]
