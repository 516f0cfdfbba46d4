"""What MLflow keeps of the training behind a model: resolved recipe, dataset, metric history."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mlflow.entities import Dataset, DatasetInput, Metric, Param, RunStatus
from mlflow.tracking import MlflowClient

from coldstart.config import Artifact, Journal, Recipe, digest, dump_recipe

_METRICS_PER_CALL = 1000
_PARAMS_PER_CALL = 100
_PARAM_LENGTH = 6000


@contextmanager
def training_run(client: MlflowClient, experiment: str, name: str, artifact: Artifact, recipe: Recipe) -> Iterator[str]:
    """Yields the id of a new run with the recipe and the dataset in it; ends it as finished, or failed on an error."""
    tags = {"coldstart.kind": artifact.kind, "coldstart.recipe": digest(recipe)}
    run_id: str = client.create_run(experiment, run_name=name, tags=tags).info.run_id
    try:
        params = [Param(key, value[:_PARAM_LENGTH]) for key, value in _flat(recipe.model_dump(mode="json"))]
        for first in range(0, len(params), _PARAMS_PER_CALL):
            client.log_batch(run_id, params=params[first : first + _PARAMS_PER_CALL])
        client.log_text(run_id, dump_recipe(recipe), "recipe.yaml")
        fingerprint = artifact.lineage["dataset"]
        source = json.dumps({"path": str(recipe.run_dir / "dataset"), "fingerprint": fingerprint})
        dataset = Dataset(name=f"{recipe.name}-dataset", digest=fingerprint[:36], source_type="local", source=source)
        client.log_inputs(run_id, [DatasetInput(dataset)])
        yield run_id
    except BaseException:
        client.set_terminated(run_id, RunStatus.to_string(RunStatus.FAILED))
        raise
    client.set_terminated(run_id)


def log_history(client: MlflowClient, run_id: str, journal: Journal) -> None:
    """Logs every figure of a stage's journal at its own time and step."""
    history = [
        Metric(key, float(value), int(line["time"] * 1000), int(line["done"]))
        for line in journal.read()
        for key, value in line.items()
        if key not in ("time", "done", "total") and isinstance(value, int | float)
    ]
    for first in range(0, len(history), _METRICS_PER_CALL):
        client.log_batch(run_id, metrics=history[first : first + _METRICS_PER_CALL])


def log_metrics(client: MlflowClient, run_id: str, metrics: Mapping[str, float], *, only_missing: bool = False) -> None:
    """Logs final figures; `only_missing` leaves those alone that the run has already."""
    present = client.get_run(run_id).data.metrics if only_missing else {}
    now = int(time.time() * 1000)
    figures = [Metric(key, float(value), now, 0) for key, value in metrics.items() if key not in present]
    if figures:
        client.log_batch(run_id, metrics=figures)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)
