"""Figures of a training in MLflow: while it runs, and each exactly once whatever fails in between."""

import subprocess
import threading
import time
from pathlib import Path

import pytest

from coldstart.config import Journal, write_artifact
from coldstart.config.recipe import Registry as RegistrySettings
from coldstart.registry import Registry
from coldstart.registry.spool import Spool, live_metrics
from tests.registry.servers import MlflowServer, free_port


@pytest.fixture
def recipe(run, tracking_uri):
    """A recipe whose dataset lies where stages leave it."""
    with write_artifact(run.recipe.run_dir / "dataset", "dataset", {}, {"items": 5}):
        pass
    return run.recipe.model_copy(update={"registry": RegistrySettings(tracking_uri=tracking_uri)})


@pytest.fixture
def journal(recipe):
    found = Journal(recipe.run_dir / "journals" / "train_ranker.jsonl")
    found.write(0, 3)
    return found


def at(recipe, tracking_uri: str):
    return recipe.model_copy(update={"registry": RegistrySettings(tracking_uri=tracking_uri)})


def runs_of(recipe, tracking_uri: str):
    client = Registry(tracking_uri, recipe.project).client
    experiment = client.get_experiment_by_name(recipe.project)
    return client, client.search_runs([experiment.experiment_id]) if experiment else []


def curve(recipe, tracking_uri: str, key: str = "loss") -> list[tuple[int, float]]:
    client, (only,) = runs_of(recipe, tracking_uri)
    return sorted((metric.step, metric.value) for metric in client.get_metric_history(only.info.run_id, key))


def test_curves_are_in_mlflow_while_the_stage_trains_and_the_run_says_what_it_is(recipe, journal, tracking_uri):
    spool = Spool("ranker", journal, recipe)
    journal.write(1, 3, loss=0.9)
    assert spool.push()
    assert curve(recipe, tracking_uri) == [(1, 0.9)]
    _, (found,) = runs_of(recipe, tracking_uri)
    assert found.info.status == "RUNNING"
    assert found.data.params["ranker.width"] == "32"
    assert found.data.tags["coldstart.version"]
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert found.data.tags.get("mlflow.source.git.commit", "") == head.stdout.strip()
    (dataset,) = found.inputs.dataset_inputs
    assert (dataset.dataset.profile, dataset.tags[0].value) == ('{"items": 5}', "training")
    journal.write(2, 3, loss=0.8)
    assert spool.push("FINISHED")
    assert curve(recipe, tracking_uri) == [(1, 0.9), (2, 0.8)]
    assert runs_of(recipe, tracking_uri)[1][0].info.status == "FINISHED"


def test_another_program_goes_on_with_the_same_run_and_adds_nothing_twice(recipe, journal, tracking_uri):
    spools = [Spool("ranker", journal, recipe) for _ in range(3)]
    journal.write(1, 3, loss=0.9, gauc=float("nan"))
    assert spools[0].push()
    journal.write(2, 3, loss=0.9, gauc=0.6)
    for spool in spools[1:]:
        assert spool.push()
    assert curve(recipe, tracking_uri) == [(1, 0.9), (2, 0.9)]
    assert len(curve(recipe, tracking_uri, "gauc")) == 2


def test_a_stage_that_starts_over_is_a_training_of_its_own(recipe, journal, tracking_uri):
    spool = Spool("ranker", journal, recipe)
    journal.write(1, 3, loss=0.9)
    spool.push()
    journal.clear()
    time.sleep(0.002)
    journal.write(0, 3)
    journal.write(1, 3, loss=0.5)
    spool.push()
    client, found = runs_of(recipe, tracking_uri)
    values = [client.get_metric_history(run.info.run_id, "loss")[0].value for run in found]
    assert sorted(values) == [0.5, 0.9]


def test_registering_uses_the_run_of_the_training_and_brings_what_it_lacks(run, recipe, journal, tracking_uri):
    spool = Spool("ranker", journal, recipe)
    journal.write(1, 3, loss=0.9)
    spool.push()
    journal.write(2, 3, loss=0.8)
    changed = recipe.model_copy(update={"seed": 99})
    version = run.registry.register(
        "ranker", recipe.run_dir / "ranker", recipe=changed, upstream={}, metrics={"cold_gauc": 0.6}, journal=journal
    )
    assert curve(recipe, tracking_uri) == [(1, 0.9), (2, 0.8)]
    _, (found,) = runs_of(recipe, tracking_uri)
    assert (version.run_id, found.info.status) == (found.info.run_id, "FINISHED")
    assert found.data.params["seed"] == "17"  # what it was trained with, not what the recipe says today


def test_training_goes_on_without_mlflow_and_says_so_once(recipe, journal):
    warnings: list[str] = []
    began = time.monotonic()
    with live_metrics(
        Spool("ranker", journal, at(recipe, f"http://127.0.0.1:{free_port()}")), warnings.append, seconds_between=0.05
    ):
        journal.write(1, 3, loss=0.9)
        time.sleep(0.5)
    assert time.monotonic() - began < 8
    assert len(warnings) == 1
    assert "no MLflow at" in warnings[0]


def test_a_failed_stage_leaves_a_failed_run(recipe, journal, tracking_uri):
    def diverge() -> None:
        journal.write(1, 3, loss=0.9)
        raise ValueError("diverged")

    with pytest.raises(ValueError, match="diverged"), live_metrics(Spool("ranker", journal, recipe), print):
        diverge()
    assert runs_of(recipe, tracking_uri)[1][0].info.status == "FAILED"


def test_a_stage_that_fails_before_it_trains_leaves_the_run_of_an_earlier_training_alone(recipe, journal, tracking_uri):
    spool = Spool("ranker", journal, recipe)
    journal.write(1, 3, loss=0.9)
    spool.push("FINISHED")
    with pytest.raises(ValueError, match="no dataset"), live_metrics(Spool("ranker", journal, recipe), print):
        raise ValueError("no dataset")
    assert runs_of(recipe, tracking_uri)[1][0].info.status == "FINISHED"


@pytest.mark.slow
def test_server_killed_and_restarted_while_training_loses_nothing_and_doubles_nothing(
    recipe, journal, tmp_path, monkeypatch
):
    """Real server, killed with SIGKILL twice; a figure every 20 ms all the while."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # So that it is the spool that goes on.
    server = MlflowServer(tmp_path)
    server.start()
    recipe = at(recipe, server.uri)
    done, steps = threading.Event(), 0

    def train() -> None:
        nonlocal steps
        while not done.wait(0.02):
            steps += 1
            journal.write(steps, 10_000, loss=1 / steps, items_per_second=100.0)

    warnings: list[str] = []
    trainer = threading.Thread(target=train)
    try:
        with live_metrics(Spool("ranker", journal, recipe), warnings.append, seconds_between=0.2):
            trainer.start()
            for _ in range(2):
                time.sleep(3)
                server.kill()
                time.sleep(2)
                server.start()
            time.sleep(3)
            done.set()
            trainer.join()
        assert len(warnings) == 1
        assert curve(recipe, server.uri) == [(step, 1 / step) for step in range(1, steps + 1)]
        assert len(curve(recipe, server.uri, "items_per_second")) == steps
        assert runs_of(recipe, server.uri)[1][0].info.status == "FINISHED"
    finally:
        done.set()
        server.kill()
