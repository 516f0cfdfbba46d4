"""A release: one scorer version with the exact models, item table and dataset that it was made from."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities.model_registry import ModelVersion as MlflowVersion

from coldstart.config import Artifact, UserError
from coldstart.data.item_table import ItemTable, check_columns
from coldstart.methods.available import METHODS, find_method
from coldstart.methods.base import ITEM_TABLE, SCORER, Method, continued_datasets
from coldstart.methods.kinds import find_kind
from coldstart.registry.registry import Registry
from coldstart.registry.version_tags import DATASET, FINGERPRINT, METHOD, lineage_tag, upstream_versions


@dataclass(frozen=True)
class Release:
    """Models of one lineage, verified and on local disk.

    Attributes:
        project: Prefix of the registered models.
        alias: Alias that was resolved; `None` if the release was requested by version.
        method: Name of the method that loads the parts.
        versions: kind -> version, for each part.
        dataset: Fingerprint of the dataset that the scorer was trained on.
        parts: kind -> artifact, for each kind that the method registers.
        items: Encoder outputs of the catalog, which the scorer was trained on.
    """

    project: str
    alias: str | None
    method: str
    versions: dict[str, int]
    dataset: str
    parts: Mapping[str, Artifact]
    items: Artifact

    @property
    def name(self) -> str:
        """Short name for logs and responses, e.g. `demo-scorer/3`."""
        return f"{self.project}-{SCORER}/{self.versions[SCORER]}"

    @property
    def scorer(self) -> Artifact:
        """The scorer's artifact; its fingerprint identifies everything that is served with it."""
        return self.parts[SCORER]

    @property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprints of all parts and of the item table, by kind."""
        return {kind: part.fingerprint for kind, part in self.parts.items()} | {ITEM_TABLE: self.items.fingerprint}

    @property
    def paths(self) -> dict[str, Path]:
        """Kind -> directory of each part and of the item table; what a method loads a release from."""
        return {kind: part.path for kind, part in self.parts.items()} | {ITEM_TABLE: self.items.path}


def read_release(registry: Registry, number: int, *, alias: str | None = None) -> Release:
    """Reads the release of a scorer version and checks that its parts belong together.

    Args:
        registry: The project's registry.
        number: Scorer version.
        alias: Alias that points to it, shown by the release; see `alias_state.resolve`.

    Raises:
        UserError: no such version, a part is missing or damaged, or the parts are not of one method and lineage.
    """
    entry = registry.version(SCORER, number)
    method = _method_of(entry)
    versions = {SCORER: number, **upstream_versions(entry)}
    _check_versions(registry, entry, method, versions)
    release = Release(
        project=registry.project,
        alias=alias,
        method=method.name,
        versions=versions,
        dataset=entry.tags[DATASET],
        parts={kind.name: registry.download_artifact(kind.name, versions[kind.name]) for kind in method.kinds},
        items=registry.download_item_table(number),
    )
    check_consistent(release)
    return release


def _method_of(entry: MlflowVersion) -> Method:
    name = entry.tags.get(METHOD)
    if name not in METHODS:
        raise UserError(
            f"{entry.name} version {entry.version} is of method '{name}', which this coldstart version does not have; "
            f"allowed: {', '.join(METHODS)}; register it again with one of these"
        )
    return find_method(name)


def _check_versions(registry: Registry, entry: MlflowVersion, method: Method, versions: Mapping[str, int]) -> None:
    """Compares the versions that the scorer's tags name with what the method consists of, and with what they are."""
    label = f"{entry.name} version {entry.version}"
    expected = ", ".join(kind.name for kind in method.kinds)
    for kind in versions:
        if kind not in (*method.upstream, SCORER):
            raise UserError(
                f"{label} was registered with a {kind}, but a release of method '{method.name}' consists of "
                f"{expected}; register it again with models of its method"
            )
    for kind in method.upstream:
        if kind not in versions:
            raise UserError(f"{label} has no {kind} version; register it with upstream versions of {expected}")
        part = registry.version(kind, versions[kind])
        used, registered = entry.tags.get(lineage_tag(kind)), part.tags.get(FINGERPRINT)
        if registered != used:
            raise UserError(
                f"{label} was made with {kind} {str(used)[:12]}, but {part.name} version {part.version} is "
                f"{str(registered)[:12]}; register the scorer again with its own {kind}"
            )
        own, other = find_kind(method.name, kind), part.tags.get(METHOD)
        if other not in (method.name, *own.shared_with) and (other not in METHODS or find_kind(other, kind) != own):
            raise UserError(
                f"{label} is of method '{method.name}', but its {kind}, {part.name} version {part.version}, is of "
                f"method '{other}', whose {kind} is a different model; register both with one method"
            )


def check_consistent(release: Release) -> None:
    """Compares the method, the lineages and the columns that the manifests of a release name.

    Raises:
        UserError: names the part that disagrees.
    """
    named = release.scorer.metadata.get("method")
    if named != release.method:
        raise UserError(
            f"release {release.name} is registered as of method '{release.method}', but its scorer is of method "
            f"'{named}'; register the scorer again"
        )
    fingerprints = release.fingerprints | {"dataset": release.dataset}
    continued = continued_datasets(release.scorer)
    for part in (*release.parts.values(), release.items):
        for source, used in part.lineage.items():
            if fingerprints.get(source, used) != used and not (source == "dataset" and used in continued):
                raise UserError(
                    f"release {release.name}: the {part.kind} was made with {source} {used[:12]}, but the release has "
                    f"{fingerprints[source][:12]}; run the stages from the {part.kind} on again"
                )
    for reader in find_method(release.method).kinds:
        needed = reader.reads(release.parts[reader.name])
        if needed:
            found = ItemTable.open(release.items.path).specs
            check_columns(found, needed, table="its item table", reader=f"release {release.name}: the {reader.name}")
