"""The MLflow run of a training: resolved recipe, dataset, code version, environment, metric history.

A training has one run, found by its id in a tag. Everything here can be repeated after a failure and then adds only
what is missing. For metrics MLflow itself ensures this: (run, key, time, step, value) is the primary key of its metric
table, and it ignores duplicates.
"""

import json
import platform
import subprocess
import time
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import distributions, version
from itertools import islice
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from coldstart.config import MetricsLog, Recipe, UserError, digest, dump_recipe, flatten_keys, read_artifact
from coldstart.registry.connection import artifact_root

TRAINING, RECIPE = "coldstart.training", "coldstart.recipe"
_METRICS_PER_CALL = 1000
_PARAMS_PER_CALL = 100
_PARAM_LENGTH = 6000


def training_id(metrics_log: MetricsLog) -> str | None:
    """The unique id of a training in a project, from its stage and start time; `None` before it starts."""
    first = next(MetricsLog(metrics_log.path).follow(), None)
    return None if first is None else f"{metrics_log.path.stem}@{first['time']:.3f}"


def get_or_create_experiment(client: MlflowClient, tracking_uri: str, project: str) -> str:
    """The id of a project's experiment, which is created on first use."""
    experiment = client.get_experiment_by_name(project)
    if experiment is None:
        try:
            created: str = client.create_experiment(project, artifact_location=artifact_root(tracking_uri))
            return created
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            experiment = client.get_experiment_by_name(project)
    found: str = experiment.experiment_id
    return found


def get_or_create_run(
    client: MlflowClient, experiment: str, name: str, *, kind: str, training: str, recipe: Recipe, dataset: str
) -> str:
    """Finds or creates the run of a training and logs what is known at its start.

    Args:
        client: Of the server.
        experiment: Its id.
        name: Shown in MLflow.
        kind: Kind of the model that is trained.
        training: Its unique id, see `training_id`.
        recipe: Resolved recipe; logged as parameters and as `recipe.yaml`, unless the run has one: the recipe of the
            training stays, even if it changes afterwards.
        dataset: Fingerprint of the dataset.

    Returns:
        The run's id.
    """
    found = client.search_runs(
        [experiment], f"tags.`{TRAINING}` = '{training}'", max_results=1, order_by=["attributes.start_time ASC"]
    )
    if found and RECIPE in found[0].data.tags:
        existing: str = found[0].info.run_id
        return existing
    tags = {TRAINING: training, "coldstart.kind": kind, **_code()}
    run_id: str = (found[0] if found else client.create_run(experiment, run_name=name, tags=tags)).info.run_id
    params = [Param(key, str(value)[:_PARAM_LENGTH]) for key, value in flatten_keys(recipe.model_dump(mode="json"))]
    for first in range(0, len(params), _PARAMS_PER_CALL):
        client.log_batch(run_id, params=params[first : first + _PARAMS_PER_CALL])
    client.log_text(run_id, dump_recipe(recipe), "recipe.yaml")
    client.log_text(run_id, _environment(), "environment.txt")
    client.log_inputs(run_id, [_dataset(recipe, dataset)])
    # Written last: a run without this tag comes from a call that did not finish.
    client.set_tag(run_id, RECIPE, digest(recipe))
    return run_id


def log_history(client: MlflowClient, run_id: str, lines: Iterable[Mapping[str, Any]]) -> None:
    """Logs every metric of the lines of a metrics log at its own time and step."""
    metrics = (
        Metric(key, float(value), int(line["time"] * 1000), int(line["done"]))
        for line in lines
        for key, value in line.items()
        if key not in ("time", "done", "total") and isinstance(value, int | float)
    )
    while batch := list(islice(metrics, _METRICS_PER_CALL)):
        client.log_batch(run_id, metrics=batch)


def complete_run(client: MlflowClient, run_id: str, metrics_log: MetricsLog) -> None:
    """Uploads the whole metrics log and ends the run, unless it has ended already."""
    if client.get_run(run_id).info.status != "FINISHED":
        log_history(client, run_id, metrics_log.read())
        client.set_terminated(run_id)


def log_metrics(client: MlflowClient, run_id: str, metrics: Mapping[str, float], *, only_missing: bool = False) -> None:
    """Logs final metrics; with `only_missing`, only those that the run does not have yet."""
    present = client.get_run(run_id).data.metrics if only_missing else {}
    now = int(time.time() * 1000)
    entries = [Metric(key, float(value), now, 0) for key, value in metrics.items() if key not in present]
    if entries:
        client.log_batch(run_id, metrics=entries)


def _code() -> dict[str, str]:
    """The package's version, and its commit if it runs from a checkout."""
    here = Path(__file__)
    tags = {"coldstart.version": version("coldstart")}

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        # A virtual environment can lie inside the checkout of another project.
        git("ls-files", "--error-unmatch", here.name)
        tags["mlflow.source.git.commit"] = git("rev-parse", "HEAD")
        tags["coldstart.uncommitted"] = str(bool(git("status", "--porcelain", "--untracked-files=no"))).lower()
    except (OSError, subprocess.SubprocessError):
        pass
    return tags


@cache
def _environment() -> str:
    """Python, platform and every installed package, as a requirements file."""
    # A package that is being installed at this moment has no metadata yet.
    packages = {f"{found.name}=={found.version}" for found in distributions() if found.read_text("METADATA")}
    head = f"# Python {platform.python_version()}, {platform.platform()}"
    return "\n".join([head, *sorted(packages, key=str.lower), ""])


def _dataset(recipe: Recipe, fingerprint: str) -> DatasetInput:
    path = recipe.run_dir / "dataset"
    try:
        artifact = read_artifact(path, "dataset", verify=False)
        metadata = artifact.metadata if artifact.fingerprint == fingerprint else {}
    except UserError:
        metadata = {}
    dataset = Dataset(
        name=f"{recipe.name}-dataset",
        digest=fingerprint[:36],
        source_type="local",
        source=json.dumps({"path": str(path), "fingerprint": fingerprint}),
        profile=json.dumps(metadata),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])
