import json

import pytest
from typer.testing import CliRunner

from coldstart.cli.app import app
from coldstart.config import UserError


@pytest.fixture
def plan(tmp_path):
    def run(*arguments):
        return CliRunner().invoke(app, ["plan", "demo", "--set", f"paths.runs={tmp_path}", *arguments])

    return run


def test_plan_reports_memory_time_and_checkpoint_size(plan):
    result = plan("--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["parameters"]["trained"] > 500_000
    assert [row["stage"] for row in report["stages"]] == [0, 1, 2, 3]
    states = [row["states"] for row in report["stages"]]
    assert states[0] > states[1] > states[2]
    assert report["recommended"]["method.coarse.micro_batch"] == 32
    assert report["items_per_second_and_rank"] > 0
    assert report["checkpoint_bytes"]["resumable"] > report["checkpoint_bytes"]["encoder"] > 0


def test_the_error_names_settings_to_change_if_nothing_fits(plan):
    result = plan("--memory", "0.001", "--no-probe")
    assert isinstance(result.exception, UserError)
    assert "encoder.gradient_checkpointing" in str(result.exception)
    assert "items/s" not in result.output


def test_memory_of_absent_gpus_has_to_be_passed(plan):
    result = plan("--set", "cluster.gpus_per_worker=1")
    assert "pass --memory GiB" in str(result.exception)
    result = plan("--set", "cluster.gpus_per_worker=1", "--memory", "80", "--json")
    assert json.loads(result.stdout)["items_per_second_and_rank"] is None
