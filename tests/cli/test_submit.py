"""`coldstart submit` against a real Ray head with token auth, started by the script that the README names."""

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from coldstart.config import read_artifact
from tests.cluster.local_head import local_head, run_coldstart

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with local_head(tmp_path_factory.mktemp("home")) as environment:
        yield environment


def submit(head: dict[str, str], *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return run_coldstart(head, "submit", *arguments, **variables)


@dataclass(frozen=True)
class Job:
    """A finished job: its id, its run directory, and what the client printed."""

    id: str
    run_dir: Path
    printed: str


@pytest.fixture(scope="module")
def job(head: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Job:
    runs = tmp_path_factory.mktemp("runs")
    sets = ["--set", f"paths.runs={runs}", "--set", "submit.metadata={team: ads}"]
    done = submit(head, "prepare", "--recipe", "tests/smoke.yaml", *sets)
    assert done.returncode == 0, done.stdout + done.stderr
    ended = re.search(r"^job (\S+) succeeded$", done.stdout, re.MULTILINE)
    assert ended, done.stdout
    return Job(ended[1], runs / "smoke", done.stdout)


def test_prepare_runs_on_the_head_and_leaves_its_artifact(job: Job) -> None:
    assert "dataset at" in job.printed
    assert read_artifact(job.run_dir / "dataset", "dataset").metadata["items"] == 600


def test_a_job_is_listed_and_its_log_stays_readable(head: dict[str, str], job: Job) -> None:
    rows = json.loads(run_coldstart(head, "jobs", "--json").stdout)
    assert (rows[-1]["job_id"], rows[-1]["job"], rows[-1]["status"]) == (job.id, "prepare", "SUCCEEDED")
    log = run_coldstart(head, "logs", job.id).stdout
    assert "dataset at" in log
    assert log in job.printed
    assert run_coldstart(head, "logs", "-f", job.id).stdout == log
    kept = (job.run_dir / "logs" / f"{job.id}.log").read_text()
    assert kept.splitlines()[-1] in log
    assert "dataset at" in kept


def test_without_the_head_the_log_is_read_from_run_storage(head: dict[str, str], job: Job) -> None:
    recipe = ["--recipe", "tests/smoke.yaml", "--set", f"paths.runs={job.run_dir.parent}"]
    lost = run_coldstart(head, "logs", job.id, *recipe, "--address", "http://127.0.0.1:1")
    assert lost.returncode == 0
    assert "is not reachable" in lost.stderr
    assert f"this is the copy in {job.run_dir}" in lost.stderr
    assert "dataset at" in lost.stdout
    unknown = run_coldstart(head, "logs", "smoke-prepare-0", *recipe)
    assert unknown.returncode == 2
    assert "has no job smoke-prepare-0" in unknown.stderr
    assert "logs/smoke-prepare-0.log" in unknown.stderr


def test_a_job_is_retried_with_the_same_recipe_only(head: dict[str, str], job: Job) -> None:
    refused = run_coldstart(head, "retry", job.id, "--set", "seed=3")
    assert refused.returncode == 2, refused.stdout
    assert "differs from that of job" in refused.stderr
    assert "in seed" in refused.stderr
    fingerprint = read_artifact(job.run_dir / "dataset", "dataset").fingerprint
    again = run_coldstart(head, "retry", job.id, "--json")
    assert json.loads(again.stdout)["status"] == "SUCCEEDED", again.stderr
    assert read_artifact(job.run_dir / "dataset", "dataset").fingerprint == fingerprint


def test_a_running_job_is_not_retried_and_stops(head: dict[str, str], tmp_path: Path) -> None:
    sets = ["--set", f"paths.runs={tmp_path}", "--set", "data.generated.events=2000000"]
    done = submit(head, "prepare", "--recipe", "tests/smoke.yaml", *sets, "--detach", "--json")
    job_id = json.loads(done.stdout)["job_id"]
    refused = run_coldstart(head, "retry", job_id)
    assert refused.returncode == 2
    assert f"coldstart stop {job_id}" in refused.stderr
    assert json.loads(run_coldstart(head, "stop", job_id, "--json").stdout)["status"] == "STOPPED"


@pytest.mark.slow
def test_what_no_node_can_hold_is_named_while_the_job_waits(head: dict[str, str], tmp_path: Path) -> None:
    sets = ["--set", f"paths.runs={tmp_path}", "--set", "submit.driver_cpus=64"]
    job_id = json.loads(submit(head, "prepare", *sets, "--detach", "--json").stdout)["job_id"]
    waiting = subprocess.Popen(
        ["coldstart", "logs", "-f", job_id], env=head, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    assert waiting.stderr is not None
    assert "submit.driver_cpus" in waiting.stderr.readline()
    stopped = run_coldstart(head, "stop", job_id)
    assert stopped.returncode == 2
    assert "Ray stops a job only once it has started" in stopped.stderr
    waiting.terminate()
    waiting.communicate(timeout=60)


def test_a_failed_job_is_exit_code_1_with_its_last_lines(head: dict[str, str], tmp_path: Path) -> None:
    files = ["--set", "data.source=files", "--set", f"data.files.root={tmp_path / 'nowhere'}"]
    done = submit(head, "prepare", "--set", f"paths.runs={tmp_path}", *files, "--json")
    assert done.returncode == 1, done.stdout + done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["status"] == "FAILED"
    assert any("nowhere" in line for line in outcome["last_lines"])
    assert "nowhere" in done.stderr


def test_a_client_without_the_token_is_refused_with_the_fix(head: dict[str, str], tmp_path: Path) -> None:
    done = submit(
        head, "prepare", "--set", f"paths.runs={tmp_path}", RAY_AUTH_MODE="disabled", HOME=str(tmp_path / "home")
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "RAY_AUTH_MODE=token" in done.stderr
    assert "Traceback" not in done.stderr
