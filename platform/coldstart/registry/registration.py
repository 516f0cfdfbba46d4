"""Registers an artifact as the next version of its model, with its lineage, its metrics and its training's history."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
from mlflow.entities import LoggedModelOutput
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from coldstart.config import Artifact, MetricsLog, Recipe, UserError, read_artifact
from coldstart.methods.base import ITEM_TABLE, SCORER
from coldstart.methods.kinds import find_kind
from coldstart.registry.packaging import package
from coldstart.registry.registry import Registry
from coldstart.registry.runs import (
    complete_run,
    get_or_create_experiment,
    get_or_create_run,
    log_metrics,
    training_id,
)
from coldstart.registry.scored_rows import log_scored_rows
from coldstart.registry.version_tags import FINGERPRINT, tags_of


@dataclass(frozen=True)
class ModelVersion:
    """One registered version.

    Attributes:
        name: Registered model, `<project>-<kind>`.
        version: Its number.
        run_id: MLflow run with its recipe, metrics and dataset.
    """

    name: str
    version: int
    run_id: str


@dataclass(frozen=True)
class EvaluationOutputs:
    """The outputs of an evaluation that are registered with a model.

    Attributes:
        metrics: Final metrics by slice and name (`cold_gauc`) and their row counts (`cold_rows`), for gates.
        scored_rows: Only for a scorer: the rows it was evaluated on with its logits, for `paired_comparison`.
        model_card: Markdown; becomes the version's description.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    scored_rows: pa.Table | None = None
    model_card: str = ""


def register_model(
    registry: Registry,
    artifact: Artifact,
    *,
    method: str,
    recipe: Recipe,
    upstream: Mapping[str, int],
    metrics_log: MetricsLog,
    evaluation: EvaluationOutputs | None = None,
) -> ModelVersion:
    """Registers an artifact as the next version, or returns the existing version of this artifact.

    Args:
        registry: The project's registry.
        artifact: Output of a stage; verified first. A scorer's item table lies next to it.
        method: Method that it is of.
        recipe: Resolved recipe; logged as parameters and as `recipe.yaml`.
        upstream: kind -> version of the models it was made from, checked against the artifact's lineage.
        metrics_log: Of the stage; lines that the run lacks are added to its metric history.
        evaluation: Logged with the version; an existing version gets what it lacks.

    Raises:
        UserError: the artifact is damaged, is of another method, or was not made from `upstream`.
    """
    find_kind(method, artifact.kind)
    artifact = read_artifact(artifact.path, artifact.kind)
    evaluation = evaluation or EvaluationOutputs()
    name, client = registry.model_name(artifact.kind), registry.client
    _check_upstream(registry, artifact, method, upstream)
    item_table = _scorers_item_table(artifact, method) if artifact.kind == SCORER else None
    existing = _find_by_fingerprint(registry, name, artifact.fingerprint)
    run_id = existing.run_id if existing else _open_run(registry, artifact, recipe, metrics_log)
    complete_run(client, run_id, metrics_log)
    log_metrics(client, run_id, evaluation.metrics, only_missing=existing is not None)
    log_scored_rows(registry, run_id, artifact.lineage["dataset"], evaluation.scored_rows)
    if existing is not None:
        return existing
    if item_table is not None:
        client.log_artifacts(run_id, str(item_table.path), ITEM_TABLE)
    model_id, location = _log_model(registry, run_id, artifact, method, item_table)
    _create_model(registry, name)
    created = client.create_model_version(
        name,
        location,
        run_id=run_id,
        tags=tags_of(artifact, method, upstream, recipe.registry.license),
        model_id=model_id,
        description=evaluation.model_card,
    )
    return ModelVersion(name, int(created.version), run_id)


def _check_upstream(registry: Registry, artifact: Artifact, method: str, upstream: Mapping[str, int]) -> None:
    for kind, number in upstream.items():
        find_kind(method, kind)
        registered = registry.version(kind, number).tags[FINGERPRINT]
        used = artifact.lineage.get(kind)
        if used != registered:
            raise UserError(
                f"the {artifact.kind} at {artifact.path} was made with {kind} {str(used)[:12]}, but "
                f"{registry.model_name(kind)} version {number} is {registered[:12]}; run the stage of the "
                f"{artifact.kind} again"
            )


def _scorers_item_table(scorer: Artifact, method: str) -> Artifact:
    named = scorer.metadata.get("method")
    if named != method:
        raise UserError(
            f"the scorer at {scorer.path} is of method '{named}', not '{method}'; register it as what it is, or train "
            f"it with method '{method}'"
        )
    items = read_artifact(scorer.path.with_name(ITEM_TABLE), ITEM_TABLE)
    if items.fingerprint != scorer.lineage.get(ITEM_TABLE):
        raise UserError(
            f"the item table at {items.path} is not the one that the scorer was trained on; run the stages from the "
            "item table on again"
        )
    return items


def _open_run(registry: Registry, artifact: Artifact, recipe: Recipe, metrics_log: MetricsLog) -> str:
    return get_or_create_run(
        registry.client,
        get_or_create_experiment(registry.client, registry.tracking_uri, registry.project),
        registry.model_name(artifact.kind),
        kind=artifact.kind,
        training=training_id(metrics_log) or f"{artifact.kind}@{artifact.fingerprint}",
        recipe=recipe,
        dataset=artifact.lineage["dataset"],
    )


def _find_by_fingerprint(registry: Registry, name: str, fingerprint: str) -> ModelVersion | None:
    found = registry.client.search_model_versions(f"name='{name}' and tag.`{FINGERPRINT}` = '{fingerprint}'")
    if not found:
        return None
    first = min(found, key=lambda entry: int(entry.version))
    return ModelVersion(name, int(first.version), first.run_id)


def _log_model(
    registry: Registry, run_id: str, artifact: Artifact, method: str, item_table: Artifact | None
) -> tuple[str, str]:
    """Returns the id and the location of the logged model."""
    client = registry.client
    experiment = client.get_run(run_id).info.experiment_id
    logged = client.create_logged_model(experiment, name=artifact.kind, source_run_id=run_id)
    model = Model(artifact_path=logged.artifact_location, run_id=run_id, model_id=logged.model_id)
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "model"
        package(artifact, directory, method=method, model=model, item_table=item_table)
        client.log_model_artifacts(logged.model_id, str(directory))
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return logged.model_id, logged.artifact_location


def _create_model(registry: Registry, name: str) -> None:
    try:
        registry.client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
