"""Deletes old versions, but never one that an alias, a lineage or a rollback needs.

The deletion is logged in the promotion log first, under the same compare-and-set as a promotion: it supersedes a
promotion that was planned before, a promotion planned afterwards is refused, and the next run finishes an interrupted
deletion.
"""

from collections.abc import Mapping

from mlflow.entities.model_registry import ModelVersion as MlflowVersion
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from coldstart.methods.base import ITEM_TABLE, SCORER
from coldstart.methods.kinds import registered_kinds
from coldstart.registry.alias_state import ALIASES, CHAMPION, reconcile_alias
from coldstart.registry.promotion_log import DELETED, Event, LogSnapshot
from coldstart.registry.registry import Registry
from coldstart.registry.scored_rows import SCORED_ROWS
from coldstart.registry.version_tags import upstream_versions


def delete_old_versions(
    registry: Registry, *, keep: int, rollback_window: int, dry_run: bool = False, reason: str = ""
) -> dict[str, list[int]]:
    """Deletes versions and their artifacts.

    Args:
        registry: The project's registry.
        keep: Number of newest versions of each kind to keep.
        rollback_window: Number of champion releases before the current one to keep for a rollback.
        dry_run: Only report what would be deleted.
        reason: Logged.

    Returns:
        kind -> versions that were, or would be, deleted.

    Raises:
        UserError: somebody changed the log, or made another decision meanwhile.
    """
    if not dry_run:
        for alias in ALIASES:
            reconcile_alias(registry, alias)
    snapshot = registry.promotion_log.read_verified()
    versions = {
        kind: {int(entry.version): entry for entry in registry.mlflow_versions(kind)} for kind in registered_kinds()
    }
    kept = _versions_to_keep(registry, snapshot, versions, keep=keep, rollback_window=rollback_window)
    to_delete = {kind: sorted(set(versions[kind]) - kept[kind]) for kind in registered_kinds()}
    if dry_run or not any(to_delete.values()):
        return to_delete
    unlogged = {
        kind: [n for n in found if n not in snapshot.deleted_versions(kind)] for kind, found in to_delete.items()
    }
    if any(unlogged.values()):
        event = Event(DELETED, None, None, None, {}, reason, deleted_versions=unlogged)
        registry.promotion_log.append(event, snapshot)
    for kind in reversed(registered_kinds()):
        for number in to_delete[kind]:
            _delete_version(registry, kind, versions[kind][number])
    return to_delete


def _versions_to_keep(
    registry: Registry,
    snapshot: LogSnapshot,
    versions: Mapping[str, Mapping[int, MlflowVersion]],
    *,
    keep: int,
    rollback_window: int,
) -> dict[str, set[int]]:
    kept = {kind: set(sorted(set(found) - snapshot.deleted_versions(kind))[-keep:]) for kind, found in versions.items()}
    for kind in registered_kinds():
        kept[kind] |= set(registry.aliases(kind).values())
    current = [release for alias in ALIASES for release in snapshot.release_history(alias)[-1:]]
    for logged in (*current, *snapshot.release_history(CHAMPION)[-rollback_window - 1 :]):
        for kind, number in logged.event.versions.items():
            kept[kind].add(number)
    for kind in reversed(registered_kinds()):
        for number in kept[kind] & set(versions[kind]):
            for upstream_kind, upstream in upstream_versions(versions[kind][number]).items():
                kept[upstream_kind].add(upstream)
    return kept


def _delete_version(registry: Registry, kind: str, entry: MlflowVersion) -> None:
    """Deletes artifacts first: while the version is listed, the next run finds what an interrupted one left."""
    run = registry.client.get_run(entry.run_id)
    parts = (ITEM_TABLE, SCORED_ROWS) if kind == SCORER else ()
    for uri in (entry.source, *(f"{run.info.artifact_uri}/{part}" for part in parts)):
        get_artifact_repository(uri, tracking_uri=registry.tracking_uri).delete_artifacts()
    registry.client.delete_model_version(entry.name, entry.version)
