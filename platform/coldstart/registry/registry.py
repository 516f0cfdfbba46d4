"""Registered models of one project: put in with lineage, taken out verified."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow.artifacts
import pyarrow as pa
import pyarrow.parquet as pq
from mlflow.entities import LoggedModelOutput
from mlflow.entities.model_registry import ModelVersion as MlflowVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from coldstart.config import Artifact, Journal, Recipe, UserError, read_artifact
from coldstart.registry.connection import connect, pages
from coldstart.registry.ledger import Ledger
from coldstart.registry.packaging import KINDS, package
from coldstart.registry.release import Release, check_consistent
from coldstart.registry.runs import complete_run, experiment_of, log_metrics, open_run, training_name

_SCORES = "scores"
"""Run artifact of an adaptor: scored rows, a file per dataset."""
FINGERPRINT, LICENCE = "coldstart.fingerprint", "coldstart.licence"
REPLAYED = "coldstart.replayed"
"""Tag of an adaptor version: the newest rows, beside its dataset's, that it was scored on as a challenger."""


@dataclass(frozen=True)
class ModelVersion:
    """One registered version.

    Attributes:
        name: Registered model, `<project>-<kind>`.
        version: Its number.
        run_id: MLflow run that holds its recipe, metrics and dataset.
    """

    name: str
    version: int
    run_id: str


class Registry:
    """The models of one project in MLflow: `<project>-ranker`, `<project>-encoder`, `<project>-adaptor`.

    An adaptor's version also carries the proxies of the catalogue it was trained on (run artifact `proxies/`), since a
    release serves them.

    Args:
        tracking_uri: Tracking server or database; `sqlite:///...` keeps artifacts in a directory beside the database.
        project: Prefix of the model names, and name of the experiment.
        cache: Where artifacts of a remote registry are kept after download; on a cluster, storage all machines see.

    Raises:
        UserError: nothing answers at `tracking_uri` within seconds.
    """

    def __init__(self, tracking_uri: str, project: str, *, cache: Path = Path("~/.cache/coldstart")) -> None:
        self.tracking_uri = tracking_uri
        self.project = project
        self.cache = cache.expanduser()
        self.client = connect(tracking_uri)
        self.ledger = Ledger(self.client, project)

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
        metrics: Mapping[str, float],
        journal: Journal,
        proxies_dir: Path | None = None,
        scores: pa.Table | None = None,
        card: str = "",
    ) -> ModelVersion:
        """Registers an artifact as the next version, or returns the version that has this very artifact already.

        Args:
            kind: ranker, encoder or adaptor.
            artifact_dir: Directory the stage wrote; verified first.
            recipe: Resolved recipe; logged as parameters and as `recipe.yaml`.
            upstream: kind -> version of the models it was made from, checked against the artifact's lineage.
            metrics: Final figures by slice and name (`cold_gauc`) and the rows they are of (`cold_rows`), for gates.
            journal: Progress of the stage; what of it the run lacks becomes its metric history.
            proxies_dir: Only for an adaptor: proxies of the catalogue; default `proxies` beside the adaptor.
            scores: Only for an adaptor: the rows it was evaluated on with its logits, for `comparison`.
            card: What people should know, in Markdown; becomes the version's description.

        Raises:
            UserError: the artifact is damaged, or was made from something else than `upstream`.
        """
        name = self.model_name(kind)
        artifact = read_artifact(artifact_dir, kind)
        self._check_upstream(artifact, upstream)
        proxies = self._read_proxies(artifact, proxies_dir) if kind == "adaptor" else None
        known = self._with_fingerprint(name, artifact.fingerprint)
        if known is not None:
            complete_run(self.client, known.run_id, journal)
            log_metrics(self.client, known.run_id, metrics, only_missing=True)
            self.keep_scored_rows(known.run_id, artifact.lineage["dataset"], scores)
            return known
        run_id = open_run(
            self.client,
            experiment_of(self.client, self.tracking_uri, self.project),
            name,
            kind=kind,
            training=training_name(journal) or f"{kind}@{artifact.fingerprint}",
            recipe=recipe,
            dataset=artifact.lineage["dataset"],
        )
        complete_run(self.client, run_id, journal)
        log_metrics(self.client, run_id, metrics)
        if proxies is not None:
            self.client.log_artifacts(run_id, str(proxies.path), "proxies")
        self.keep_scored_rows(run_id, artifact.lineage["dataset"], scores)
        model_id, location = self._log_model(run_id, artifact, proxies)
        tags = _tags(artifact, upstream) | {LICENCE: recipe.registry.licence}
        version = self._create_version(name, location, run_id, model_id, tags, card)
        return ModelVersion(name, version, run_id)

    def versions(self) -> list[dict[str, Any]]:
        """All versions of the project, newest first within each kind.

        Returns:
            Rows of name, kind, version, aliases, run_id, upstream (kind -> version), fingerprint, dataset, metrics
            (figures by slice and name, those that were measured), created (Unix seconds).
        """
        runs = self._runs()
        rows = []
        for kind in KINDS:
            aliases = self.aliases(kind)
            for entry in self.entries(kind):
                standing = [alias for alias, at in aliases.items() if at == int(entry.version)]
                rows.append(_row(kind, entry, standing, runs.get(entry.run_id, {})))
        return rows

    def entries(self, kind: str) -> list[MlflowVersion]:
        """MLflow's entries of all versions of a kind, newest first."""
        found = pages(
            lambda token: self.client.search_model_versions(f"name='{self.model_name(kind)}'", page_token=token)
        )
        return sorted(found, key=lambda entry: -int(entry.version))

    def aliases(self, kind: str) -> dict[str, int]:
        """Versions by alias of a kind; empty when nothing is registered."""
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
            UserError: there is none of that number.
        """
        name = self.model_name(kind)
        try:
            return self.client.get_model_version(name, str(number))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise UserError(f"{name} has no version {number}; `coldstart models` lists what is registered") from error

    def metrics(self, kind: str, number: int) -> dict[str, float]:
        """Last logged figures of a version."""
        figures: dict[str, float] = self.client.get_run(self.version(kind, number).run_id).data.metrics
        return figures

    def release(self, number: int, *, alias: str | None = None) -> Release:
        """Locates the release of an adaptor version and proves that its parts belong together.

        Args:
            number: Adaptor version.
            alias: Alias it was found by, which the release then shows; `standing.resolve` finds it.

        Raises:
            UserError: no such version, a part is missing or damaged, or the parts are not of one lineage.
        """
        entry = self.version("adaptor", number)
        pinned = upstream_versions(entry)
        for kind in ("ranker", "encoder"):
            used = entry.tags.get(f"coldstart.{kind}")
            if kind not in pinned:
                raise UserError(
                    f"{entry.name} version {number} does not say its {kind} version; register it with upstream"
                )
            registered = self.version(kind, pinned[kind]).tags.get(FINGERPRINT)
            if registered != used:
                raise UserError(
                    f"{entry.name} version {number} was made with {kind} {str(used)[:12]}, but {self.model_name(kind)} "
                    f"version {pinned[kind]} is {str(registered)[:12]}; register the adaptor again with its own {kind}"
                )
        release = Release(
            project=self.project,
            alias=alias,
            versions={"adaptor": number, **pinned},
            dataset=entry.tags["coldstart.dataset"],
            ranker=self.locate("ranker", pinned["ranker"]),
            encoder=self.locate("encoder", pinned["encoder"]),
            adaptor=self.locate("adaptor", number),
            proxies=self.locate_proxies(number),
        )
        check_consistent(release)
        return release

    def locate(self, kind: str, number: int) -> Artifact:
        """The artifact of a version on local disk, verified against its manifest and its registered fingerprint."""
        entry = self.version(kind, number)
        return self._fetch(f"{entry.source}/artifacts/{kind}", kind, entry.tags[FINGERPRINT])

    def locate_proxies(self, number: int) -> Artifact:
        """The catalogue's proxies that an adaptor version was trained on, verified."""
        entry = self.version("adaptor", number)
        run = self.client.get_run(entry.run_id)
        return self._fetch(f"{run.info.artifact_uri}/proxies", "proxies", entry.tags["coldstart.proxies"])

    def dataset_facts(self, number: int) -> dict[str, Any]:
        """What an adaptor version's run says of its dataset (counts, time cuts); nothing if that was not at hand."""
        run = self.client.get_run(self.version("adaptor", number).run_id)
        profiles = [used.dataset.profile for used in run.inputs.dataset_inputs]
        facts: dict[str, Any] = json.loads(profiles[0]) if profiles and profiles[0] else {}
        return facts

    def scored_rows(self, number: int, dataset: str) -> pa.Table | None:
        """Rows of a dataset that an adaptor version was scored on; `None` if it was not.

        Args:
            number: Adaptor version.
            dataset: Fingerprint of the dataset, or of later rows.
        """
        run_id = self.version("adaptor", number).run_id
        name = _scores_file(dataset)
        if name not in (file.path for file in self.client.list_artifacts(run_id, _SCORES)):
            return None
        with tempfile.TemporaryDirectory() as scratch:
            return pq.read_table(self.client.download_artifacts(run_id, name, scratch))

    def keep_scored_rows(self, run_id: str, dataset: str, scores: pa.Table | None) -> None:
        """Adds rows that the model of a run was scored on, unless it has rows of this dataset."""
        name = _scores_file(dataset)
        if scores is None or name in (file.path for file in self.client.list_artifacts(run_id, _SCORES)):
            return
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / Path(name).name
            pq.write_table(scores, file)
            self.client.log_artifact(run_id, str(file), _SCORES)

    def keep_replay(self, scores: Mapping[int, pa.Table], rows: str) -> None:
        """Keeps rows that several adaptor versions were scored on, for gates to compare any two of them there.

        Args:
            scores: Adaptor version -> its scored rows.
            rows: Fingerprint of the rows.
        """
        for number, table in scores.items():
            entry = self.version("adaptor", number)
            self.keep_scored_rows(entry.run_id, rows, table)
            self.client.set_model_version_tag(entry.name, entry.version, REPLAYED, rows)

    def _fetch(self, uri: str, kind: str, fingerprint: str) -> Artifact:
        try:
            kept = self._downloaded(uri, fingerprint)
        except (MlflowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"the registered {kind} at {uri} cannot be read: {reason}; register it again") from error
        artifact = read_artifact(kept, kind)
        if artifact.fingerprint != fingerprint:
            raise UserError(
                f"the {kind} at {kept} has fingerprint {artifact.fingerprint[:12]}, but {fingerprint[:12]} was "
                "registered; somebody replaced it: register it as a version of its own"
            )
        return artifact

    def _downloaded(self, uri: str, fingerprint: str) -> Path:
        """Where an artifact lies on local disk; of a remote registry in the cache, wholly or not at all."""
        kept = self.cache / fingerprint
        if uri.startswith("file:"):
            return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, tracking_uri=self.tracking_uri))
        if not kept.is_dir():
            self.cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.cache, prefix=".draft-") as draft:
                path = mlflow.artifacts.download_artifacts(
                    artifact_uri=uri, tracking_uri=self.tracking_uri, dst_path=draft
                )
                try:
                    Path(path).rename(kept)
                except OSError:
                    if not kept.is_dir():  # Otherwise another process was faster, with the very same.
                        raise
        return kept

    def _check_upstream(self, artifact: Artifact, upstream: Mapping[str, int]) -> None:
        for kind, number in upstream.items():
            registered = self.version(kind, number).tags[FINGERPRINT]
            used = artifact.lineage.get(kind)
            if used != registered:
                raise UserError(
                    f"the {artifact.kind} at {artifact.path} was made with {kind} {str(used)[:12]}, but "
                    f"{self.model_name(kind)} version {number} is {registered[:12]}; make the {artifact.kind} anew"
                )

    def _read_proxies(self, adaptor: Artifact, proxies_dir: Path | None) -> Artifact:
        proxies = read_artifact(proxies_dir or adaptor.path.with_name("proxies"), "proxies")
        if proxies.fingerprint != adaptor.lineage.get("proxies"):
            raise UserError(
                f"the proxies at {proxies.path} are not those the adaptor was trained on; "
                "run embed_items and align_fine again"
            )
        return proxies

    def _with_fingerprint(self, name: str, fingerprint: str) -> ModelVersion | None:
        found = self.client.search_model_versions(f"name='{name}' and tag.`{FINGERPRINT}` = '{fingerprint}'")
        if not found:
            return None
        first = min(found, key=lambda entry: int(entry.version))
        return ModelVersion(name, int(first.version), first.run_id)

    def _log_model(self, run_id: str, artifact: Artifact, proxies: Artifact | None) -> tuple[str, str]:
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

    def _create_version(
        self, name: str, location: str, run_id: str, model_id: str, tags: dict[str, str], card: str
    ) -> int:
        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        created = self.client.create_model_version(
            name, location, run_id=run_id, tags=tags, model_id=model_id, description=card
        )
        return int(created.version)

    def _runs(self) -> dict[str, dict[str, float]]:
        """Last figures of all runs of the project, by run, in one question instead of one per version."""
        experiment = self.client.get_experiment_by_name(self.project)
        if experiment is None:
            return {}
        found = pages(lambda token: self.client.search_runs([experiment.experiment_id], page_token=token))
        return {run.info.run_id: run.data.metrics for run in found}


def _row(kind: str, entry: MlflowVersion, aliases: list[str], metrics: dict[str, float]) -> dict[str, Any]:
    return {
        "name": entry.name,
        "kind": kind,
        "version": int(entry.version),
        "aliases": aliases,
        "run_id": entry.run_id,
        "upstream": upstream_versions(entry),
        "fingerprint": entry.tags.get(FINGERPRINT),
        "dataset": entry.tags.get("coldstart.dataset"),
        "metrics": metrics,
        "created": entry.creation_timestamp / 1000,
    }


def _scores_file(dataset: str) -> str:
    return f"{_SCORES}/{dataset[:32]}.parquet"


def upstream_versions(entry: MlflowVersion) -> dict[str, int]:
    """Versions by kind that a registered version's tags point at."""
    pinned = ((kind, entry.tags.get(f"coldstart.{kind}.version")) for kind in KINDS)
    return {kind: int(number) for kind, number in pinned if number is not None}


def _tags(artifact: Artifact, upstream: Mapping[str, int]) -> dict[str, str]:
    """What a version says of itself: its fingerprint, and its lineage by fingerprint and by version."""
    tags = {"coldstart.kind": artifact.kind, FINGERPRINT: artifact.fingerprint}
    tags |= {f"coldstart.{kind}": fingerprint for kind, fingerprint in artifact.lineage.items()}
    tags |= {f"coldstart.{kind}.version": str(number) for kind, number in upstream.items()}
    return tags
