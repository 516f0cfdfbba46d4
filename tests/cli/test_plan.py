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


def test_a_plan_says_what_fits_and_how_long_it_takes(plan):
    found = plan("--json")
    assert found.exit_code == 0, found.output
    report = json.loads(found.stdout)
    assert report["parameters"]["trained"] > 500_000
    assert [row["stage"] for row in report["stages"]] == [0, 1, 2, 3]
    states = [row["states"] for row in report["stages"]]
    assert states[0] > states[1] > states[2]
    assert report["recommended"]["coarse.micro_batch"] == 32
    assert report["items_per_second_and_rank"] > 0
    assert report["checkpoint_bytes"]["resumable"] > report["checkpoint_bytes"]["encoder"] > 0


def test_what_does_not_fit_says_what_to_change(plan):
    found = plan("--memory", "0.001", "--no-probe")
    assert isinstance(found.exception, UserError)
    assert "encoder.gradient_checkpointing" in str(found.exception)
    assert "items/s" not in found.output


def test_gpus_that_are_not_here_have_to_be_described(plan):
    found = plan("--set", "cluster.gpus_per_worker=1")
    assert "say --memory GiB" in str(found.exception)
    told = plan("--set", "cluster.gpus_per_worker=1", "--memory", "80", "--json")
    assert json.loads(told.stdout)["items_per_second_and_rank"] is None
