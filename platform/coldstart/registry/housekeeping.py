"""Deleting old versions, and never one that an alias, a lineage or a rollback needs.

What is to go is recorded in the ledger first, under the same compare-and-set as a promotion: a promotion that was
decided before is overtaken, one decided afterwards is refused, and an interrupted sweep is finished by the next.
"""

from collections.abc import Mapping

from mlflow.entities.model_registry import ModelVersion as MlflowVersion
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from coldstart.registry.ledger import COLLECTED, Chain, Entry
from coldstart.registry.packaging import KINDS
from coldstart.registry.registry import Registry, upstream_versions
from coldstart.registry.standing import ALIASES, CHAMPION, settle


def collect(
    registry: Registry, *, keep: int, window: int, dry_run: bool = False, why: str = ""
) -> dict[str, list[int]]:
    """Deletes versions and their artifacts.

    Args:
        registry: The project's registry.
        keep: Newest versions of each kind that stay.
        window: Champion releases before the present one that stay ready for a rollback.
        dry_run: Only say what would go.
        why: Recorded.

    Returns:
        kind -> versions that went, or would go.

    Raises:
        UserError: somebody changed the record, or decided something meanwhile.
    """
    if not dry_run:
        for alias in ALIASES:
            settle(registry, alias)
    chain = registry.ledger.trusted()
    versions = {kind: {int(entry.version): entry for entry in registry.entries(kind)} for kind in KINDS}
    needed = _needed(registry, chain, versions, keep=keep, window=window)
    going = {kind: sorted(set(versions[kind]) - needed[kind]) for kind in KINDS}
    if dry_run or not any(going.values()):
        return going
    unrecorded = {kind: [n for n in numbers if n not in chain.condemned(kind)] for kind, numbers in going.items()}
    if any(unrecorded.values()):
        entry = Entry(COLLECTED, None, None, None, {}, why, condemned=unrecorded)
        registry.ledger.append(entry, chain)
    for kind in reversed(KINDS):
        for number in going[kind]:
            _delete(registry, kind, versions[kind][number])
    return going


def _needed(
    registry: Registry, chain: Chain, versions: Mapping[str, Mapping[int, MlflowVersion]], *, keep: int, window: int
) -> dict[str, set[int]]:
    needed = {kind: set(sorted(set(found) - chain.condemned(kind))[-keep:]) for kind, found in versions.items()}
    for kind in KINDS:
        needed[kind] |= set(registry.aliases(kind).values())
    standing = [release for alias in ALIASES for release in chain.releases(alias)[-1:]]
    for record in (*standing, *chain.releases(CHAMPION)[-window - 1 :]):
        for kind, number in record.entry.versions.items():
            needed[kind].add(number)
    for kind in reversed(KINDS):
        for number in needed[kind] & set(versions[kind]):
            for above, pinned in upstream_versions(versions[kind][number]).items():
                needed[above].add(pinned)
    return needed


def _delete(registry: Registry, kind: str, entry: MlflowVersion) -> None:
    """Artifacts first: while the version is listed, an interrupted sweep finds what is left."""
    run = registry.client.get_run(entry.run_id)
    parts = ("proxies", "scores") if kind == "adaptor" else ()
    places = [entry.source, *(f"{run.info.artifact_uri}/{part}" for part in parts)]
    for place in places:
        get_artifact_repository(place, tracking_uri=registry.tracking_uri).delete_artifacts()
    registry.client.delete_model_version(entry.name, entry.version)
