"""The state of an alias in the promotion log and in MLflow, and how to reconcile the two.

The newest effective event is the truth, and the aliases of all kinds follow it. MLflow cannot move several aliases
at once, so a writer logs its event, moves the aliases, and then marks the event as applied. If it dies in between, the
event stays unapplied, and the next reader applies it. Readers of this module therefore see a promotion completely or
not at all.

An alias that differs from an applied event was changed manually, in MLflow's UI or API. The change is accepted and
logged if the alias points to a complete release; otherwise the aliases are reset, and that is logged too. MLflow has no
conditional alias write: a process that stalls for seconds between reading the log and writing the alias, and dies
before it reads again, can leave the alias of an older event. This looks like a manual change: it is detected, shown in
the history, and points to a release that was in effect before.
"""

import time
from dataclasses import dataclass
from enum import Enum
from typing import Any

from coldstart.config import UserError
from coldstart.methods.base import SCORER
from coldstart.methods.kinds import registered_kinds
from coldstart.registry.promotion_log import (
    MANUAL_ACCEPTED,
    MANUAL_REVERTED,
    ConflictError,
    Event,
    LoggedEvent,
    LogSnapshot,
)
from coldstart.registry.registry import Registry
from coldstart.registry.release import Release, read_release

CHAMPION, CHALLENGER = "champion", "challenger"
ALIASES = (CHAMPION, CHALLENGER)
_RECHECK_SECONDS = 0.2
"""A difference that disappears within this time was another process at work, not a manual change."""
_ATTEMPTS = 10


class AliasStatus(Enum):
    """How MLflow's aliases compare with the promotion log."""

    UNSET = "not set"
    IN_SYNC = "in sync with the log"
    PENDING = "logged, not yet applied to MLflow"
    MANUAL = "changed manually"


@dataclass(frozen=True)
class AliasState:
    """One alias at one moment.

    Attributes:
        alias: champion or challenger.
        status: How aliases and log compare.
        last_event: The event that set the alias; `None` if there is none.
        mlflow_versions: kind -> version that MLflow's aliases point to.
        problem: If changed manually: why the change is not accepted. Otherwise: why the logged release cannot be used.
            `None` when nothing is wrong.
    """

    alias: str
    status: AliasStatus
    last_event: LoggedEvent | None
    mlflow_versions: dict[str, int]
    problem: str | None = None

    @property
    def version(self) -> int | None:
        """Scorer version in effect: a manual change if it points to a complete release, else the logged one."""
        if self.status is AliasStatus.MANUAL and self.problem is None:
            return self.mlflow_versions.get(SCORER)
        return self.last_event.event.version if self.last_event else None

    def describe(self) -> str:
        """For people."""
        current = f"{self.alias} is version {self.version}" if self.version else f"there is no {self.alias}"
        if self.status is AliasStatus.MANUAL:
            target = f"version {self.mlflow_versions[SCORER]}" if SCORER in self.mlflow_versions else "no version"
            outcome = f"not accepted: {self.problem}" if self.problem else "accepted"
            return f"{current}; its alias was changed manually to {target}, which is {outcome}"
        return f"{current} ({self.problem or self.status.value})"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "alias": self.alias,
            "status": self.status.value,
            "version": self.version,
            "mlflow_versions": self.mlflow_versions,
            "event": self.last_event.number if self.last_event else None,
            "problem": self.problem,
        }


def read_alias_state(registry: Registry, alias: str, snapshot: LogSnapshot | None = None) -> AliasState:
    """Compares log and aliases; changes nothing.

    Args:
        registry: The project's registry.
        alias: champion or challenger.
        snapshot: The log, if it was read already.

    Raises:
        UserError: unknown alias, or somebody changed the log.
    """
    if alias not in ALIASES:
        raise UserError(f"no alias '{alias}'; allowed: {', '.join(ALIASES)}")
    snapshot = snapshot or registry.promotion_log.read_verified()
    logged = snapshot.head(alias)
    actual = {kind: aliases[alias] for kind in registered_kinds() if alias in (aliases := registry.aliases(kind))}
    expected = logged.event.versions if logged else {}
    if logged and not logged.applied:
        return AliasState(alias, AliasStatus.PENDING, logged, actual, _missing_version(registry, expected))
    if actual == expected:
        status = AliasStatus.IN_SYNC if expected else AliasStatus.UNSET
        return AliasState(alias, status, logged, actual, None)
    missing = _missing_version(registry, expected)
    if missing and actual.get(SCORER) in (None, expected[SCORER]):
        # Deleting a version in MLflow removes its alias too: nothing was moved, and nothing can be reset.
        return AliasState(alias, AliasStatus.IN_SYNC, logged, actual, missing)
    problem = _rejection_reason(registry, snapshot, actual, expected)
    return AliasState(alias, AliasStatus.MANUAL, logged, actual, problem)


def reconcile_alias(registry: Registry, alias: str) -> AliasState:
    """Brings aliases and log together: applies a pending event, accepts or reverts a manual change.

    Returns:
        The state afterwards; it has a `problem` if the logged release no longer exists.

    Raises:
        UserError: somebody changed the log, or the alias keeps changing.
    """
    suspect: AliasState | None = None
    for _ in range(_ATTEMPTS):
        snapshot = registry.promotion_log.read_verified()
        state = read_alias_state(registry, alias, snapshot)
        if state.status is AliasStatus.PENDING and state.problem is None:
            apply_to_mlflow(registry, alias)
        elif state.status is not AliasStatus.MANUAL:
            return state
        elif state != suspect:
            suspect = state
            time.sleep(_RECHECK_SECONDS)
        else:
            _log_manual_change(registry, state, snapshot)
    raise UserError(f"alias '{alias}' of {registry.project} keeps changing; find out who changes it and try again")


def resolve(registry: Registry, alias: str = CHAMPION) -> Release:
    """The verified release that an alias points to; reconciles the alias first.

    Raises:
        UserError: the alias is not set, the release is not complete, or somebody changed the log.
    """
    state = reconcile_alias(registry, alias)
    if state.version is None:
        raise UserError(
            f"{registry.model_name(SCORER)} has no {alias}; `coldstart promote scorer VERSION --to {alias}` sets it"
        )
    if state.problem:
        raise UserError(f"{state.describe()}; `coldstart rollback scorer` returns to the release before it")
    return read_release(registry, state.version, alias=alias)


def apply_to_mlflow(registry: Registry, alias: str) -> None:
    """Sets MLflow's aliases as the log requires, repeats this if the log changed meanwhile, and marks it as applied."""
    applied: LoggedEvent | None = None
    while (head := registry.promotion_log.read_verified().head(alias)) != applied and head is not None:
        _set_aliases(registry, alias, head.event.versions)
        applied = head
    if applied is not None:
        registry.promotion_log.mark_applied(applied)


def _log_manual_change(registry: Registry, state: AliasState, snapshot: LogSnapshot) -> None:
    logged = state.last_event.event if state.last_event else None
    if state.problem is None:
        release = read_release(registry, state.mlflow_versions[SCORER])
        event = Event(
            action=MANUAL_ACCEPTED,
            alias=state.alias,
            previous=logged.version if logged else None,
            version=release.versions[SCORER],
            versions=release.versions,
            fingerprints=release.fingerprints,
            reason="the alias was changed manually to a complete release",
        )
    else:
        target = logged if logged and not _missing_version(registry, logged.versions) else None
        event = Event(
            action=MANUAL_REVERTED,
            alias=state.alias,
            previous=state.mlflow_versions.get(SCORER),
            version=target.version if target else None,
            versions=target.versions if target else {},
            fingerprints=target.fingerprints if target else {},
            reason=f"the alias was changed manually: {state.problem}",
        )
    try:
        registry.promotion_log.append(event, snapshot)
    except ConflictError:
        return
    apply_to_mlflow(registry, state.alias)


def _rejection_reason(
    registry: Registry, snapshot: LogSnapshot, actual: dict[str, int], expected: dict[str, int]
) -> str | None:
    """Why a manual change cannot be accepted."""
    version = actual.get(SCORER)
    if version is None:
        return "the alias was removed"
    if version == expected.get(SCORER):
        return "the other models of a release move only with the scorer that was made with them"
    if version in snapshot.deleted_versions(SCORER):
        return f"scorer version {version} is being deleted"
    try:
        read_release(registry, version)
    except UserError as error:
        return str(error)
    return None


def _missing_version(registry: Registry, versions: dict[str, int]) -> str | None:
    for kind, number in versions.items():
        try:
            registry.version(kind, number)
        except UserError as error:
            return str(error).partition(";")[0]
    return None


def _set_aliases(registry: Registry, alias: str, versions: dict[str, int]) -> None:
    """Moves the alias of every kind, the scorer's last since MLflow's own readers follow that one."""
    for kind in registered_kinds():
        name, actual = registry.model_name(kind), registry.aliases(kind).get(alias)
        wanted = versions.get(kind)
        if wanted is not None and actual != wanted:
            registry.client.set_registered_model_alias(name, alias, str(wanted))
        elif wanted is None and actual is not None:
            registry.client.delete_registered_model_alias(name, alias)
