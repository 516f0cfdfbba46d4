"""What MLflow keeps of an evaluation: its report, its figures as JSON and as metrics, its plots."""

from collections.abc import Iterator, Mapping
from typing import Any

from coldstart.config import Artifact, Recipe
from coldstart.registry.registry import Registry
from coldstart.registry.runs import experiment_of, log_metrics, open_run


def log_evaluation(registry: Registry, evaluation: Artifact, recipe: Recipe, *, dataset: str) -> str:
    """Logs an evaluation, of one training or of several seeds, as a run of the project; again, it adds what is missing.

    Scored rows stay where they are: they are as many as the log's.

    Args:
        registry: Of the project.
        evaluation: Has `metrics[variant][slice][metric]` in `about`; a figure that is not defined is not logged.
        recipe: It was made with.
        dataset: Fingerprint of the dataset.

    Returns:
        The run's id.
    """
    client = registry.client
    experiment = experiment_of(client, registry.tracking_uri, registry.project)
    run_id = open_run(
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
    log_metrics(client, run_id, dict(_figures(evaluation.about["metrics"])), only_missing=True)
    client.set_terminated(run_id)
    return run_id


def _figures(metrics: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Under `slice/metric/variant`, so that variants of one figure stand together."""
    for variant, by_slice in metrics.items():
        for slice_name, figures in by_slice.items():
            for metric, found in figures.items():
                value = found["value"] if isinstance(found, Mapping) else found
                if value is not None:
                    yield f"{slice_name}/{metric}/{variant}", float(value)
