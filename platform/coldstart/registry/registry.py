"""Registered models of one project: put in with lineage, taken out verified."""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow.artifacts
from mlflow.entities import LoggedModelOutput
from mlflow.entities.model_registry import ModelVersion as MlflowVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from coldstart.config import Artifact, Journal, Recipe, UserError, read_artifact
from coldstart.registry.connection import artifact_root, connect
from coldstart.registry.packaging import KINDS, package
from coldstart.registry.release import Release, check_consistent
from coldstart.registry.runs import log_history, log_metrics, training_run

FINGERPRINT = "coldstart.fingerprint"


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
    ) -> ModelVersion:
        """Registers an artifact as the next version, or returns the version that has this very artifact already.

        Args:
            kind: ranker, encoder or adaptor.
            artifact_dir: Directory the stage wrote; verified first.
            recipe: Resolved recipe; logged as parameters and as `recipe.yaml`.
            upstream: kind -> version of the models it was made from, checked against the artifact's lineage.
            metrics: Final figures; a promotion gate reads `cold_gauc` of an adaptor.
            journal: Progress of the stage; becomes the metric history.
            proxies_dir: Only for an adaptor: proxies of the catalogue; default `proxies` beside the adaptor.

        Raises:
            UserError: the artifact is damaged, or was made from something else than `upstream`.
        """
        name = self.model_name(kind)
        artifact = read_artifact(artifact_dir, kind)
        self._check_upstream(artifact, upstream)
        proxies = self._read_proxies(artifact, proxies_dir) if kind == "adaptor" else None
        known = self._with_fingerprint(name, artifact.fingerprint)
        if known is not None:
            log_metrics(self.client, known.run_id, metrics, only_missing=True)
            return known
        with training_run(self.client, self._experiment(), name, artifact, recipe) as run_id:
            log_history(self.client, run_id, journal)
            log_metrics(self.client, run_id, metrics)
            if proxies is not None:
                self.client.log_artifacts(run_id, str(proxies.path), "proxies")
            model_id, location = self._log_model(run_id, artifact, proxies)
            version = self._create_version(name, location, run_id, model_id, _tags(artifact, upstream))
        return ModelVersion(name, version, run_id)

    def versions(self) -> list[dict[str, Any]]:
        """All versions of the project, newest first within each kind.

        Returns:
            Rows of name, kind, version, aliases, run_id, upstream (kind -> version), fingerprint, dataset, cold_gauc
            (None where not measured), created (Unix seconds).
        """
        rows = []
        for kind in KINDS:
            name = self.model_name(kind)
            aliases = self.aliases(kind)
            found = list(self.client.search_model_versions(f"name='{name}'"))
            for entry in sorted(found, key=lambda item: -int(item.version)):
                rows.append(
                    self._row(kind, entry, [alias for alias, at in aliases.items() if at == int(entry.version)])
                )
        return rows

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

    def release(self, alias_or_version: str | int = "champion") -> Release:
        """Locates a release and proves that its parts belong together.

        Raises:
            UserError: no such alias or version, a part is missing or damaged, or the parts are not of one lineage.
        """
        alias = alias_or_version if isinstance(alias_or_version, str) and not alias_or_version.isdigit() else None
        number = self._aliased(alias) if alias else int(alias_or_version)
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

    def _fetch(self, uri: str, kind: str, fingerprint: str) -> Artifact:
        kept = self.cache / fingerprint
        if not kept.is_dir():
            try:
                path = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, tracking_uri=self.tracking_uri))
            except (MlflowException, OSError) as error:
                reason = str(error).splitlines()[0]
                raise UserError(
                    f"the registered {kind} at {uri} cannot be read: {reason}; register it again"
                ) from error
            if uri.startswith("file:"):
                kept = path
            else:
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(path, kept)
        artifact = read_artifact(kept, kind)
        if artifact.fingerprint != fingerprint:
            raise UserError(
                f"the {kind} at {kept} has fingerprint {artifact.fingerprint[:12]}, but {fingerprint[:12]} was "
                "registered; somebody replaced it: register it as a version of its own"
            )
        return artifact

    def _aliased(self, alias: str) -> int:
        aliases = self.aliases("adaptor")
        if alias not in aliases:
            raise UserError(
                f"{self.model_name('adaptor')} has no alias '{alias}'; "
                f"`coldstart promote adaptor VERSION --to {alias}` sets it"
            )
        return aliases[alias]

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

    def _experiment(self) -> str:
        experiment = self.client.get_experiment_by_name(self.project)
        if experiment is not None:
            found: str = experiment.experiment_id
            return found
        created: str = self.client.create_experiment(self.project, artifact_location=artifact_root(self.tracking_uri))
        return created

    def _log_model(self, run_id: str, artifact: Artifact, proxies: Artifact | None) -> tuple[str, str]:
        logged = self.client.create_logged_model(self._experiment(), name=artifact.kind, source_run_id=run_id)
        model = Model(artifact_path=logged.artifact_location, run_id=run_id, model_id=logged.model_id)
        with tempfile.TemporaryDirectory() as scratch:
            directory = Path(scratch) / "model"
            package(artifact, directory, model=model, proxies=proxies)
            self.client.log_model_artifacts(logged.model_id, str(directory))
        self.client.finalize_logged_model(logged.model_id, "READY")
        self.client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
        return logged.model_id, logged.artifact_location

    def _create_version(self, name: str, location: str, run_id: str, model_id: str, tags: dict[str, str]) -> int:
        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        created = self.client.create_model_version(name, location, run_id=run_id, tags=tags, model_id=model_id)
        return int(created.version)

    def _row(self, kind: str, entry: MlflowVersion, aliases: list[str]) -> dict[str, Any]:
        return {
            "name": entry.name,
            "kind": kind,
            "version": int(entry.version),
            "aliases": aliases,
            "run_id": entry.run_id,
            "upstream": upstream_versions(entry),
            "fingerprint": entry.tags.get(FINGERPRINT),
            "dataset": entry.tags.get("coldstart.dataset"),
            "cold_gauc": self.client.get_run(entry.run_id).data.metrics.get("cold_gauc"),
            "created": entry.creation_timestamp / 1000,
        }


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
