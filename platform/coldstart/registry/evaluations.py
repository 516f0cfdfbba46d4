"""Logs an evaluation in MLflow: its report, its metrics (as JSON and as MLflow metrics) and its plots."""

from collections.abc import Iterator, Mapping
from typing import Any

from coldstart.config import Artifact, Recipe
from coldstart.registry.registry import Registry
from coldstart.registry.runs import get_or_create_experiment, get_or_create_run, log_metrics


def log_evaluation(registry: Registry, evaluation: Artifact, recipe: Recipe, *, dataset: str) -> str:
    """Logs an evaluation of one training or of several seeds as a run; a repeated call adds what is missing.

    Scored rows are not logged: there are as many as events in the log.

    Args:
        registry: Of the project.
        evaluation: Has `metrics[variant][slice][metric]` in `metadata`; undefined metrics are not logged.
        recipe: The recipe of the evaluation.
        dataset: Fingerprint of the dataset.

    Returns:
        The run's id.
    """
    client = registry.client
    experiment = get_or_create_experiment(client, registry.tracking_uri, registry.project)
    run_id = get_or_create_run(
        client,
        experiment,
        f"{recipe.name}-{evaluation.kind}",
        kind=evaluation.kind,
        training=evaluation.fingerprint,
        recipe=recipe,
        dataset=dataset,
    )
    if client.get_run(run_id).info.status == "FINISHED":
        return run_id
    for file in sorted(evaluation.path.rglob("*")):
        if file.suffix in (".html", ".json", ".png"):
            folder = file.parent.relative_to(evaluation.path)
            client.log_artifact(run_id, str(file), None if str(folder) == "." else str(folder))
    log_metrics(client, run_id, dict(_flatten(evaluation.metadata["metrics"])), only_missing=True)
    client.set_terminated(run_id)
    return run_id


def _flatten(metrics: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Names them `slice/metric/variant`, so that MLflow groups the variants of a metric."""
    for variant, by_slice in metrics.items():
        for slice_name, by_metric in by_slice.items():
            for metric, found in by_metric.items():
                value = found["value"] if isinstance(found, Mapping) else found
                if value is not None:
                    yield f"{slice_name}/{metric}/{variant}", float(value)
