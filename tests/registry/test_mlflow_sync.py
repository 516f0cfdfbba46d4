"""Metrics of a training in MLflow: uploaded while it runs, each exactly once whatever fails."""

import subprocess
import threading
import time
from pathlib import Path

import pytest

from coldstart.config import MetricsLog, read_artifact, write_artifact
from coldstart.config.recipe import Registry as RegistrySettings
from coldstart.registry import EvaluationOutputs, Registry, register_model
from coldstart.registry.mlflow_sync import MetricsSync, live_metrics
from tests.registry.servers import MlflowServer, free_port


@pytest.fixture
def recipe(run, tracking_uri):
    """A recipe with a dataset in its run directory."""
    with write_artifact(run.recipe.run_dir / "dataset", "dataset", {}, {"items": 5}):
        pass
    return run.recipe.model_copy(update={"registry": RegistrySettings(tracking_uri=tracking_uri)})


@pytest.fixture
def metrics_log(recipe):
    found = MetricsLog(recipe.run_dir / "metrics" / "train_ranker.jsonl")
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


def test_metrics_are_uploaded_during_training_with_the_run_description(recipe, metrics_log, tracking_uri):
    sync = MetricsSync("ranker", metrics_log, recipe)
    metrics_log.write(1, 3, loss=0.9)
    assert sync.push()
    assert curve(recipe, tracking_uri) == [(1, 0.9)]
    _, (found,) = runs_of(recipe, tracking_uri)
    assert found.info.status == "RUNNING"
    assert found.data.params["ranker.embedding_dim"] == "32"
    assert found.data.tags["coldstart.version"]
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert found.data.tags.get("mlflow.source.git.commit", "") == head.stdout.strip()
    (dataset,) = found.inputs.dataset_inputs
    assert (dataset.dataset.profile, dataset.tags[0].value) == ('{"items": 5}', "training")
    metrics_log.write(2, 3, loss=0.8)
    assert sync.push("FINISHED")
    assert curve(recipe, tracking_uri) == [(1, 0.9), (2, 0.8)]
    assert runs_of(recipe, tracking_uri)[1][0].info.status == "FINISHED"


def test_another_program_continues_the_run_without_duplicates(recipe, metrics_log, tracking_uri):
    syncs = [MetricsSync("ranker", metrics_log, recipe) for _ in range(3)]
    metrics_log.write(1, 3, loss=0.9, gauc=float("nan"))
    assert syncs[0].push()
    metrics_log.write(2, 3, loss=0.9, gauc=0.6)
    for sync in syncs[1:]:
        assert sync.push()
    assert curve(recipe, tracking_uri) == [(1, 0.9), (2, 0.9)]
    assert len(curve(recipe, tracking_uri, "gauc")) == 2


def test_restarted_stage_is_a_new_training(recipe, metrics_log, tracking_uri):
    sync = MetricsSync("ranker", metrics_log, recipe)
    metrics_log.write(1, 3, loss=0.9)
    sync.push()
    metrics_log.clear()
    time.sleep(0.002)
    metrics_log.write(0, 3)
    metrics_log.write(1, 3, loss=0.5)
    sync.push()
    client, found = runs_of(recipe, tracking_uri)
    values = [client.get_metric_history(run.info.run_id, "loss")[0].value for run in found]
    assert sorted(values) == [0.5, 0.9]


def test_registering_completes_the_run_of_the_training(run, recipe, metrics_log, tracking_uri):
    sync = MetricsSync("ranker", metrics_log, recipe)
    metrics_log.write(1, 3, loss=0.9)
    sync.push()
    metrics_log.write(2, 3, loss=0.8)
    changed = recipe.model_copy(update={"seed": 99})
    version = register_model(
        run.registry,
        read_artifact(recipe.run_dir / "ranker", "ranker"),
        method="idproxy",
        recipe=changed,
        upstream={},
        evaluation=EvaluationOutputs({"cold_gauc": 0.6}),
        metrics_log=metrics_log,
    )
    assert curve(recipe, tracking_uri) == [(1, 0.9), (2, 0.8)]
    _, (found,) = runs_of(recipe, tracking_uri)
    assert (version.run_id, found.info.status) == (found.info.run_id, "FINISHED")
    assert found.data.params["seed"] == "17"  # the recipe of the training, not the changed one


def test_training_continues_without_mlflow_and_warns_once(recipe, metrics_log):
    warnings: list[str] = []
    began = time.monotonic()
    with live_metrics(
        MetricsSync("ranker", metrics_log, at(recipe, f"http://127.0.0.1:{free_port()}")),
        warnings.append,
        seconds_between=0.05,
    ):
        metrics_log.write(1, 3, loss=0.9)
        time.sleep(0.5)
    assert time.monotonic() - began < 8
    assert len(warnings) == 1
    assert "no MLflow at" in warnings[0]


def test_failed_stage_leaves_a_failed_run(recipe, metrics_log, tracking_uri):
    def diverge() -> None:
        metrics_log.write(1, 3, loss=0.9)
        raise ValueError("diverged")

    with pytest.raises(ValueError, match="diverged"), live_metrics(MetricsSync("ranker", metrics_log, recipe), print):
        diverge()
    assert runs_of(recipe, tracking_uri)[1][0].info.status == "FAILED"


def test_stage_that_fails_early_does_not_change_an_earlier_run(recipe, metrics_log, tracking_uri):
    sync = MetricsSync("ranker", metrics_log, recipe)
    metrics_log.write(1, 3, loss=0.9)
    sync.push("FINISHED")
    with pytest.raises(ValueError, match="no dataset"), live_metrics(MetricsSync("ranker", metrics_log, recipe), print):
        raise ValueError("no dataset")
    assert runs_of(recipe, tracking_uri)[1][0].info.status == "FINISHED"


@pytest.mark.slow
def test_server_restart_during_training_loses_and_duplicates_nothing(recipe, metrics_log, tmp_path, monkeypatch):
    """Real server, killed with SIGKILL twice, while a metric is written every 20 ms."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # So that it is the spool that goes on.
    server = MlflowServer(tmp_path)
    server.start()
    recipe = at(recipe, server.uri)
    done, steps = threading.Event(), 0

    def train() -> None:
        nonlocal steps
        while not done.wait(0.02):
            steps += 1
            metrics_log.write(steps, 10_000, loss=1 / steps, items_per_second=100.0)

    warnings: list[str] = []
    trainer = threading.Thread(target=train)
    try:
        with live_metrics(MetricsSync("ranker", metrics_log, recipe), warnings.append, seconds_between=0.2):
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
