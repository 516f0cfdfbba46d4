"""The registered models of one project: their versions, aliases, metrics and artifacts."""

import json
from pathlib import Path
from typing import Any

from mlflow.entities.model_registry import ModelVersion as MlflowVersion
from mlflow.exceptions import MlflowException

from coldstart.config import Artifact, UserError
from coldstart.methods.base import ITEM_TABLE, SCORER
from coldstart.methods.kinds import registered_kinds
from coldstart.registry.artifact_cache import ArtifactCache
from coldstart.registry.connection import connect, fetch_all_pages
from coldstart.registry.promotion_log import PromotionLog
from coldstart.registry.version_tags import DATASET, FINGERPRINT, ITEMS, upstream_versions


class Registry:
    """The models of one project in MLflow: `<project>-<kind>` for every kind that a method registers.

    A scorer's version also contains the catalog's item table that it was trained on (run artifact `item_table/`),
    because a release serves it.

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
        if kind not in registered_kinds():
            raise UserError(f"no model of kind '{kind}'; allowed: {', '.join(registered_kinds())}")
        return f"{self.project}-{kind}"

    def versions(self) -> list[dict[str, Any]]:
        """All versions of the project, newest first within each kind.

        Returns:
            Rows of name, kind, version, aliases, run_id, upstream (kind -> version), fingerprint, dataset, metrics
            (by slice and name), created (Unix seconds).
        """
        metrics = self._metrics_by_run()
        rows = []
        for kind in registered_kinds():
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

    def download_artifact(self, kind: str, number: int) -> Artifact:
        """The artifact of a version on local disk, verified against its manifest and its registered fingerprint."""
        entry = self.version(kind, number)
        return self._artifacts.read(f"{entry.source}/artifacts/{kind}", kind, entry.tags[FINGERPRINT])

    def download_item_table(self, number: int) -> Artifact:
        """The catalog's item table that a scorer version was trained on, verified."""
        entry = self.version(SCORER, number)
        run = self.client.get_run(entry.run_id)
        return self._artifacts.read(f"{run.info.artifact_uri}/{ITEM_TABLE}", ITEM_TABLE, entry.tags[ITEMS])

    def dataset_summary(self, number: int) -> dict[str, Any]:
        """The dataset's counts and time splits from a scorer version's run; empty if the run has none."""
        run = self.client.get_run(self.version(SCORER, number).run_id)
        profiles = [used.dataset.profile for used in run.inputs.dataset_inputs]
        summary: dict[str, Any] = json.loads(profiles[0]) if profiles and profiles[0] else {}
        return summary

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
