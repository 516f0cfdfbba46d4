"""The registered models of one project: register them with their lineage, read them verified."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from mlflow.entities import LoggedModelOutput
from mlflow.entities.model_registry import ModelVersion as MlflowVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from coldstart.config import Artifact, MetricsLog, Recipe, UserError, read_artifact
from coldstart.registry.artifact_cache import ArtifactCache
from coldstart.registry.connection import connect, fetch_all_pages
from coldstart.registry.packaging import KINDS, package
from coldstart.registry.promotion_log import PromotionLog
from coldstart.registry.release import Release, check_consistent
from coldstart.registry.runs import (
    complete_run,
    get_or_create_experiment,
    get_or_create_run,
    log_metrics,
    training_id,
)
from coldstart.registry.version_tags import DATASET, FINGERPRINT, PROXIES, REPLAYED_ROWS, tags_of, upstream_versions

_SCORES = "scores"
"""Run artifact of an adaptor: scored rows, one file per dataset."""


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
        scored_rows: Only for an adaptor: the rows it was evaluated on with its logits, for `paired_comparison`.
        model_card: Markdown; becomes the version's description.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    scored_rows: pa.Table | None = None
    model_card: str = ""


class Registry:
    """The models of one project in MLflow: `<project>-ranker`, `<project>-encoder`, `<project>-adaptor`.

    An adaptor's version also contains the catalog's proxies that it was trained on (run artifact `proxies/`), because a
    release serves them.

    Args:
        tracking_uri: Tracking server or database; `sqlite:///...` keeps artifacts in a directory next to the database.
        project: Prefix of the model names, and name of the experiment.
        cache: For downloaded artifacts of a remote registry; on a cluster, storage that all machines see.

    Raises:
        UserError: nothing answers at `tracking_uri` within seconds.
    """

    def __init__(self, tracking_uri: str, project: str, *, cache: Path = Path("~/.cache/coldstart")) -> None:
        self.tracking_uri = tracking_uri
        self.project = project
        self.client = connect(tracking_uri)
        self.promotion_log = PromotionLog(self.client, project)
        self._artifacts = ArtifactCache(tracking_uri, cache.expanduser())

    def model_name(self, kind: str) -> str:
        """Name of the registered model of a kind."""
        if kind not in KINDS:
            raise UserError(f"no model of kind '{kind}'; allowed: {', '.join(KINDS)}")
        return f"{self.project}-{kind}"

    def register(
        self,
        kind: str,
        artifact_dir: Path,
        *,
        recipe: Recipe,
        upstream: Mapping[str, int],
        metrics_log: MetricsLog,
        evaluation: EvaluationOutputs | None = None,
        proxies_dir: Path | None = None,
    ) -> ModelVersion:
        """Registers an artifact as the next version, or returns the existing version of this artifact.

        Args:
            kind: ranker, encoder or adaptor.
            artifact_dir: Output directory of the stage; verified first.
            recipe: Resolved recipe; logged as parameters and as `recipe.yaml`.
            upstream: kind -> version of the models it was made from, checked against the artifact's lineage.
            metrics_log: Of the stage; lines that the run lacks are added to its metric history.
            evaluation: Logged with the version; an existing version gets what it lacks.
            proxies_dir: Only for an adaptor: proxies of the catalog; default: `proxies` next to the adaptor.

        Raises:
            UserError: the artifact is damaged, or was not made from `upstream`.
        """
        name = self.model_name(kind)
        artifact = read_artifact(artifact_dir, kind)
        evaluation = evaluation or EvaluationOutputs()
        self._check_upstream(artifact, upstream)
        proxies = self._read_proxies(artifact, proxies_dir) if kind == "adaptor" else None
        existing = self._find_by_fingerprint(name, artifact.fingerprint)
        run_id = existing.run_id if existing else self._open_run(artifact, recipe, metrics_log)
        complete_run(self.client, run_id, metrics_log)
        log_metrics(self.client, run_id, evaluation.metrics, only_missing=existing is not None)
        self.log_scored_rows(run_id, artifact.lineage["dataset"], evaluation.scored_rows)
        if existing is not None:
            return existing
        if proxies is not None:
            self.client.log_artifacts(run_id, str(proxies.path), "proxies")
        model_id, location = self._log_model(run_id, artifact, proxies)
        self._create_model(name)
        created = self.client.create_model_version(
            name,
            location,
            run_id=run_id,
            tags=tags_of(artifact, upstream, recipe.registry.license),
            model_id=model_id,
            description=evaluation.model_card,
        )
        return ModelVersion(name, int(created.version), run_id)

    def versions(self) -> list[dict[str, Any]]:
        """All versions of the project, newest first within each kind.

        Returns:
            Rows of name, kind, version, aliases, run_id, upstream (kind -> version), fingerprint, dataset, metrics
            (by slice and name), created (Unix seconds).
        """
        metrics = self._metrics_by_run()
        rows = []
        for kind in KINDS:
            aliases = self.aliases(kind)
            for entry in self.mlflow_versions(kind):
                names = [alias for alias, number in aliases.items() if number == int(entry.version)]
                rows.append(_version_row(kind, entry, names, metrics.get(entry.run_id, {})))
        return rows

    def mlflow_versions(self, kind: str) -> list[MlflowVersion]:
        """MLflow's objects for all versions of a kind, newest first."""
        name = self.model_name(kind)
        found = fetch_all_pages(lambda token: self.client.search_model_versions(f"name='{name}'", page_token=token))
        return sorted(found, key=lambda entry: -int(entry.version))

    def aliases(self, kind: str) -> dict[str, int]:
        """The versions of a kind by alias; empty when nothing is registered."""
        try:
            model = self.client.get_registered_model(self.model_name(kind))
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return {}
            raise
        return {alias: int(version) for alias, version in model.aliases.items()}

    def version(self, kind: str, number: int) -> MlflowVersion:
        """One registered version.

        Raises:
            UserError: there is no such version.
        """
        name = self.model_name(kind)
        try:
            return self.client.get_model_version(name, str(number))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise UserError(
                f"{name} has no version {number}; `coldstart models` lists the registered versions"
            ) from error

    def metrics(self, kind: str, number: int) -> dict[str, float]:
        """Last logged metrics of a version."""
        metrics: dict[str, float] = self.client.get_run(self.version(kind, number).run_id).data.metrics
        return metrics

    def release(self, number: int, *, alias: str | None = None) -> Release:
        """Reads the release of an adaptor version and checks that its parts belong together.

        Args:
            number: Adaptor version.
            alias: Alias that points to it, shown by the release; see `alias_state.resolve`.

        Raises:
            UserError: no such version, a part is missing or damaged, or the parts are not of one lineage.
        """
        entry = self.version("adaptor", number)
        upstream = upstream_versions(entry)
        for kind in ("ranker", "encoder"):
            used = entry.tags.get(f"coldstart.{kind}")
            if kind not in upstream:
                raise UserError(f"{entry.name} version {number} has no {kind} version; register it with upstream")
            registered = self.version(kind, upstream[kind]).tags.get(FINGERPRINT)
            if registered != used:
                raise UserError(
                    f"{entry.name} version {number} was made with {kind} {str(used)[:12]}, but {self.model_name(kind)} "
                    f"version {upstream[kind]} is {str(registered)[:12]}; register the adaptor again with its own "
                    f"{kind}"
                )
        release = Release(
            project=self.project,
            alias=alias,
            versions={"adaptor": number, **upstream},
            dataset=entry.tags[DATASET],
            ranker=self.download_artifact("ranker", upstream["ranker"]),
            encoder=self.download_artifact("encoder", upstream["encoder"]),
            adaptor=self.download_artifact("adaptor", number),
            proxies=self.download_proxies(number),
        )
        check_consistent(release)
        return release

    def download_artifact(self, kind: str, number: int) -> Artifact:
        """The artifact of a version on local disk, verified against its manifest and its registered fingerprint."""
        entry = self.version(kind, number)
        return self._artifacts.read(f"{entry.source}/artifacts/{kind}", kind, entry.tags[FINGERPRINT])

    def download_proxies(self, number: int) -> Artifact:
        """The catalog's proxies that an adaptor version was trained on, verified."""
        entry = self.version("adaptor", number)
        run = self.client.get_run(entry.run_id)
        return self._artifacts.read(f"{run.info.artifact_uri}/proxies", "proxies", entry.tags[PROXIES])

    def dataset_summary(self, number: int) -> dict[str, Any]:
        """The dataset's counts and time splits from an adaptor version's run; empty if the run has none."""
        run = self.client.get_run(self.version("adaptor", number).run_id)
        profiles = [used.dataset.profile for used in run.inputs.dataset_inputs]
        summary: dict[str, Any] = json.loads(profiles[0]) if profiles and profiles[0] else {}
        return summary

    def scored_rows(self, number: int, dataset: str) -> pa.Table | None:
        """Rows of a dataset with the logits of an adaptor version; `None` if it did not score them.

        Args:
            number: Adaptor version.
            dataset: Fingerprint of the dataset, or of later rows.
        """
        run_id = self.version("adaptor", number).run_id
        if not self._has_scored_rows(run_id, dataset):
            return None
        with tempfile.TemporaryDirectory() as scratch:
            return pq.read_table(self.client.download_artifacts(run_id, _scores_path(dataset), scratch))

    def log_scored_rows(self, run_id: str, dataset: str, scores: pa.Table | None) -> None:
        """Adds rows that the model of a run scored, unless it has rows of this dataset."""
        if scores is None or self._has_scored_rows(run_id, dataset):
            return
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / Path(_scores_path(dataset)).name
            pq.write_table(scores, file)
            self.client.log_artifact(run_id, str(file), _SCORES)

    def log_replay(self, scores: Mapping[int, pa.Table], rows: str) -> None:
        """Adds rows that several adaptor versions scored, so that gates can compare any two of them there.

        Args:
            scores: Adaptor version -> its scored rows.
            rows: Fingerprint of the rows.
        """
        for number, table in scores.items():
            entry = self.version("adaptor", number)
            self.log_scored_rows(entry.run_id, rows, table)
            self.client.set_model_version_tag(entry.name, entry.version, REPLAYED_ROWS, rows)

    def _has_scored_rows(self, run_id: str, dataset: str) -> bool:
        return _scores_path(dataset) in (file.path for file in self.client.list_artifacts(run_id, _SCORES))

    def _check_upstream(self, artifact: Artifact, upstream: Mapping[str, int]) -> None:
        for kind, number in upstream.items():
            registered = self.version(kind, number).tags[FINGERPRINT]
            used = artifact.lineage.get(kind)
            if used != registered:
                raise UserError(
                    f"the {artifact.kind} at {artifact.path} was made with {kind} {str(used)[:12]}, but "
                    f"{self.model_name(kind)} version {number} is {registered[:12]}; run the stage of the "
                    f"{artifact.kind} again"
                )

    def _read_proxies(self, adaptor: Artifact, proxies_dir: Path | None) -> Artifact:
        proxies = read_artifact(proxies_dir or adaptor.path.with_name("proxies"), "proxies")
        if proxies.fingerprint != adaptor.lineage.get("proxies"):
            raise UserError(
                f"the proxies at {proxies.path} are not those the adaptor was trained on; "
                "run embed_items and align_fine again"
            )
        return proxies

    def _open_run(self, artifact: Artifact, recipe: Recipe, metrics_log: MetricsLog) -> str:
        return get_or_create_run(
            self.client,
            get_or_create_experiment(self.client, self.tracking_uri, self.project),
            self.model_name(artifact.kind),
            kind=artifact.kind,
            training=training_id(metrics_log) or f"{artifact.kind}@{artifact.fingerprint}",
            recipe=recipe,
            dataset=artifact.lineage["dataset"],
        )

    def _find_by_fingerprint(self, name: str, fingerprint: str) -> ModelVersion | None:
        found = self.client.search_model_versions(f"name='{name}' and tag.`{FINGERPRINT}` = '{fingerprint}'")
        if not found:
            return None
        first = min(found, key=lambda entry: int(entry.version))
        return ModelVersion(name, int(first.version), first.run_id)

    def _log_model(self, run_id: str, artifact: Artifact, proxies: Artifact | None) -> tuple[str, str]:
        """Returns the id and the location of the logged model."""
        experiment = self.client.get_run(run_id).info.experiment_id
        logged = self.client.create_logged_model(experiment, name=artifact.kind, source_run_id=run_id)
        model = Model(artifact_path=logged.artifact_location, run_id=run_id, model_id=logged.model_id)
        with tempfile.TemporaryDirectory() as scratch:
            directory = Path(scratch) / "model"
            package(artifact, directory, model=model, proxies=proxies)
            self.client.log_model_artifacts(logged.model_id, str(directory))
        self.client.finalize_logged_model(logged.model_id, "READY")
        self.client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
        return logged.model_id, logged.artifact_location

    def _create_model(self, name: str) -> None:
        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _metrics_by_run(self) -> dict[str, dict[str, float]]:
        """Last metrics of all runs of the project, with one request instead of one per version."""
        experiment = self.client.get_experiment_by_name(self.project)
        if experiment is None:
            return {}
        found = fetch_all_pages(lambda token: self.client.search_runs([experiment.experiment_id], page_token=token))
        return {run.info.run_id: run.data.metrics for run in found}


def _version_row(kind: str, entry: MlflowVersion, aliases: list[str], metrics: dict[str, float]) -> dict[str, Any]:
    return {
        "name": entry.name,
        "kind": kind,
        "version": int(entry.version),
        "aliases": aliases,
        "run_id": entry.run_id,
        "upstream": upstream_versions(entry),
        "fingerprint": entry.tags.get(FINGERPRINT),
        "dataset": entry.tags.get(DATASET),
        "metrics": metrics,
        "created": entry.creation_timestamp / 1000,
    }


def _scores_path(dataset: str) -> str:
    return f"{_SCORES}/{dataset[:32]}.parquet"
