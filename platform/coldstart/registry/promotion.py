"""Promotion in two steps: plan it without changing anything, then apply the plan to the state it was based on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from coldstart.config import UserError
from coldstart.config.recipe import Registry as Settings
from coldstart.methods.base import SCORER
from coldstart.registry.alias_state import (
    CHALLENGER,
    CHAMPION,
    AliasStatus,
    apply_to_mlflow,
    read_alias_state,
    reconcile_alias,
)
from coldstart.registry.connection import explain_mlflow_errors
from coldstart.registry.gates import GateResult, Measure, evaluate_gates
from coldstart.registry.promotion_log import PROMOTED, REFUSED, ROLLED_BACK, STOPPED, Event, LoggedEvent, LogSnapshot
from coldstart.registry.registry import Registry
from coldstart.registry.release import Release, read_release

GATE_TAG_PREFIX = "coldstart.gates."
"""Tags with the latest gate results of a version."""
_OUTAGE_ADVICE = "the decision counts if it was logged, else nothing has changed: check `coldstart history`"


@dataclass(frozen=True)
class PromotionPlan:
    """What a promotion would do, and why.

    Attributes:
        alias: The alias.
        previous: Scorer version that the alias points to now, if any.
        release: The candidate, verified.
        gate_results: One per gate.
        snapshot: The promotion log that the plan is based on.
        existing: The event by which the alias points to this version already, if it does.
    """

    alias: str
    previous: int | None
    release: Release
    gate_results: tuple[GateResult, ...]
    snapshot: LogSnapshot
    existing: LoggedEvent | None

    @property
    def passed(self) -> bool:
        """Whether no gate failed."""
        return all(result.passed is not False for result in self.gate_results)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "alias": self.alias,
            "previous": self.previous,
            "version": self.release.versions[SCORER],
            "versions": self.release.versions,
            "passed": self.passed,
            "gates": [result.as_dict() for result in self.gate_results],
        }


def check_promotable(registry: Registry, kind: str) -> None:
    """Refuses kinds that have no promotion of their own.

    Raises:
        UserError: the other models of a release move with its scorer, or the kind is unknown.
    """
    if kind != SCORER:
        registry.model_name(kind)
        raise UserError(
            f"a {kind} moves with the release it belongs to; name a scorer that was made with it: "
            "`coldstart promote scorer VERSION`"
        )


def plan_promotion(
    registry: Registry, version: int, settings: Settings, *, alias: str = CHAMPION, measure: Measure | None = None
) -> PromotionPlan:
    """Evaluates the gates for a version and an alias; changes nothing.

    Args:
        registry: The project's registry.
        version: Scorer version to promote; the other models of its release move with it.
        settings: Gates; they apply to the champion, a challenger only has to be a complete release.
        alias: champion or challenger.
        measure: Measures golden requests.

    Raises:
        UserError: no such version or alias, an inconsistent release, or somebody changed the log.
    """
    snapshot = registry.promotion_log.read_verified()
    state = read_alias_state(registry, alias, snapshot)
    _check_not_deleted(snapshot, version)
    release = read_release(registry, version)
    existing = state.last_event if state.status is AliasStatus.IN_SYNC and state.version == version else None
    champion = state.version if state.version != version and not state.problem else None
    if alias != CHAMPION:
        settings = settings.model_copy(update={"gates": (), "allowed_licenses": ()})
    results = evaluate_gates(registry, release, champion, settings, measure)
    return PromotionPlan(alias, state.version, release, tuple(results), snapshot, existing)


def apply_promotion(
    registry: Registry, plan: PromotionPlan, *, reason: str = "", override: bool = False
) -> LoggedEvent:
    """Logs a planned promotion and, if no gate failed or failures are overridden, moves the aliases.

    Args:
        registry: The project's registry.
        plan: From `plan_promotion`; must be based on the current state.
        reason: Logged; required to override.
        override: Promote although gates failed.

    Returns:
        The logged event; the earlier one if the alias points to this version already.

    Raises:
        UserError: override without a reason.
        ConflictError: another decision came first.
    """
    if override and not reason:
        raise UserError("--override needs a reason, which is logged; add --reason TEXT")
    if plan.existing is not None:
        return plan.existing
    moves = plan.passed or override
    event = Event(
        action=PROMOTED if moves else REFUSED,
        alias=plan.alias,
        previous=plan.previous,
        version=plan.release.versions[SCORER],
        versions=plan.release.versions if moves else {},
        fingerprints=plan.release.fingerprints,
        gates=[result.as_dict() for result in plan.gate_results],
        override=override and not plan.passed,
        reason=reason,
    )
    logged = registry.promotion_log.append(event, plan.snapshot)
    if moves:
        apply_to_mlflow(registry, plan.alias)
    _tag_gate_results(registry, plan)
    return logged


def promote(
    registry: Registry,
    version: int,
    settings: Settings,
    *,
    alias: str = CHAMPION,
    measure: Measure | None = None,
    reason: str = "",
    override: bool = False,
) -> LoggedEvent:
    """Reconciles the alias, plans and applies; arguments and errors as in `plan_promotion` and `apply_promotion`."""
    with explain_mlflow_errors(registry.tracking_uri, _OUTAGE_ADVICE):
        reconcile_alias(registry, alias)
        plan = plan_promotion(registry, version, settings, alias=alias, measure=measure)
        return apply_promotion(registry, plan, reason=reason, override=override)


def rollback(registry: Registry, *, to: int | None = None, reason: str = "") -> LoggedEvent:
    """Returns the champion alias to an earlier release, byte for byte; no gate applies, only consistency is checked.

    Args:
        registry: The project's registry.
        to: Scorer version that was champion before; default: the one before the current champion.
        reason: Logged.

    Raises:
        UserError: there is no such earlier release, or it has changed since.
    """
    with explain_mlflow_errors(registry.tracking_uri, _OUTAGE_ADVICE):
        return _roll_back(registry, to, reason)


def stop_challenger(registry: Registry, *, reason: str = "") -> LoggedEvent:
    """Removes the challenger alias; its versions stay registered.

    Args:
        registry: The project's registry.
        reason: Logged.

    Raises:
        UserError: there is no challenger.
    """
    with explain_mlflow_errors(registry.tracking_uri, _OUTAGE_ADVICE):
        state = reconcile_alias(registry, CHALLENGER)
        if state.version is None:
            raise UserError(
                "there is no challenger to stop; `coldstart promote scorer VERSION --to challenger` sets one"
            )
        event = Event(STOPPED, CHALLENGER, previous=state.version, version=None, versions={}, reason=reason)
        logged = registry.promotion_log.append(event, registry.promotion_log.read_verified())
        apply_to_mlflow(registry, CHALLENGER)
        return logged


def describe_event(logged: LoggedEvent) -> str:
    """A decision about an alias, for people."""
    event = logged.event
    parts = ", ".join(f"{kind} {number}" for kind, number in event.versions.items())
    failed = "; ".join(gate["note"] for gate in event.gates if gate["passed"] is False)
    if event.action == REFUSED:
        return f"refused: scorer version {event.version} does not become {event.alias}: {failed}"
    if event.version is None:
        return f"there is no {event.alias} now (before: version {event.previous})"
    before = f" (before: version {event.previous})" if event.previous not in (None, event.version) else ""
    overridden = f"; GATES OVERRIDDEN: {failed}" if event.override else ""
    return f"{event.alias} is scorer version {event.version}{before}: {parts}{overridden}"


def _roll_back(registry: Registry, to: int | None, reason: str) -> LoggedEvent:
    state = reconcile_alias(registry, CHAMPION)
    snapshot = registry.promotion_log.read_verified()
    target = _rollback_target(snapshot, state.version, to).event
    assert target.version is not None
    _check_not_deleted(snapshot, target.version)
    release = read_release(registry, target.version)
    changed = [part for part, logged in target.fingerprints.items() if release.fingerprints.get(part) != logged]
    if changed:
        raise UserError(
            f"release {release.name} has changed since it was champion: {', '.join(changed)}; "
            "roll back to another version with --to"
        )
    event = Event(
        action=ROLLED_BACK,
        alias=CHAMPION,
        previous=state.version,
        version=target.version,
        versions=release.versions,
        fingerprints=release.fingerprints,
        reason=reason,
    )
    written = registry.promotion_log.append(event, snapshot)
    apply_to_mlflow(registry, CHAMPION)
    return written


def _rollback_target(snapshot: LogSnapshot, version: int | None, to: int | None) -> LoggedEvent:
    history: Sequence[LoggedEvent] = snapshot.release_history(CHAMPION)
    if to is None:
        history = [logged for logged in history if logged.event.version != version]
        if not history:
            raise UserError("there is no release before the current champion; `coldstart history` lists all of them")
        return history[-1]
    effective = snapshot.effective(CHAMPION)
    matches = [logged for logged in effective if logged.event.version == to and logged.event.versions]
    if not matches:
        raise UserError(
            f"scorer version {to} was never champion, so no rollback to it is possible; "
            f"`coldstart promote scorer {to}` evaluates its gates"
        )
    return matches[-1]


def _check_not_deleted(snapshot: LogSnapshot, version: int) -> None:
    if version in snapshot.deleted_versions(SCORER):
        raise UserError(f"scorer version {version} was deleted by `coldstart gc`; register it again to use it")


def _tag_gate_results(registry: Registry, plan: PromotionPlan) -> None:
    """Shows the latest gate results at the version in MLflow; the promotion log keeps them permanently."""
    name, number = registry.model_name(SCORER), str(plan.release.versions[SCORER])
    for result in plan.gate_results:
        outcome = {True: "passed", False: "failed", None: "not compared"}[result.passed]
        key = GATE_TAG_PREFIX + result.name.replace(" ", "-")
        registry.client.set_model_version_tag(name, number, key, f"{outcome}: {result.note}")
