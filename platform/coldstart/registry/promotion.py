"""Promotion: a decision with evidence. Decided first, without changing anything; enacted against the state it saw."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from coldstart.config import UserError
from coldstart.config.recipe import Registry as Settings
from coldstart.registry.connection import answering
from coldstart.registry.gates import Measure, Verdict, judge
from coldstart.registry.ledger import PROMOTED, REFUSED, ROLLED_BACK, WITHDRAWN, Chain, Entry, Record
from coldstart.registry.registry import Registry
from coldstart.registry.release import Release
from coldstart.registry.standing import CHALLENGER, CHAMPION, State, finish, look, settle

GATES = "coldstart.gates."
"""Tags that hold the latest verdicts of a version."""
_IN_DOUBT = "if the decision is on record it counts, else nothing has changed: `coldstart history` shows which"


@dataclass(frozen=True)
class Decision:
    """What a promotion would do, and why.

    Attributes:
        alias: The alias.
        previous: Adaptor version that stands there, if any.
        release: The candidate, verified.
        verdicts: One per gate.
        chain: State of the record that this was decided on.
        standing: The record by which the version stands there already, if it does.
    """

    alias: str
    previous: int | None
    release: Release
    verdicts: tuple[Verdict, ...]
    chain: Chain
    standing: Record | None

    @property
    def passed(self) -> bool:
        """Whether no gate refuses."""
        return all(verdict.passed is not False for verdict in self.verdicts)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "alias": self.alias,
            "previous": self.previous,
            "version": self.release.versions["adaptor"],
            "versions": self.release.versions,
            "passed": self.passed,
            "gates": [verdict.as_dict() for verdict in self.verdicts],
        }


def decide(
    registry: Registry,
    kind: str,
    version: int,
    settings: Settings,
    *,
    alias: str = CHAMPION,
    measure: Measure | None = None,
) -> Decision:
    """Judges a version for an alias; changes nothing.

    Args:
        registry: The project's registry.
        kind: `adaptor`; ranker and encoder move with it.
        version: Version to promote.
        settings: Gates; they hold for the champion, a challenger only has to be a whole release.
        alias: champion or challenger.
        measure: Measures golden requests.

    Raises:
        UserError: no such version or alias, an inconsistent release, another kind, or somebody changed the record.
    """
    _only_adaptor(registry, kind)
    chain = registry.ledger.trusted()
    standing = look(registry, alias, chain)
    _not_condemned(chain, version)
    release = registry.release(version)
    already = standing.record if standing.state is State.SETTLED and standing.version == version else None
    champion = standing.version if standing.version != version and not standing.trouble else None
    if alias != CHAMPION:
        settings = settings.model_copy(update={"gates": (), "licences": ()})
    verdicts = judge(registry, release, champion, settings, measure)
    return Decision(alias, standing.version, release, tuple(verdicts), chain, already)


def enact(registry: Registry, decision: Decision, *, why: str = "", override: bool = False) -> Record:
    """Records a decision and, if no gate refuses or they are overridden, moves the aliases.

    Args:
        registry: The project's registry.
        decision: From `decide`; must have been taken on the present state.
        why: Recorded; must be given to override.
        override: Promote although gates refuse.

    Returns:
        The record; the one of before if the version stands there already.

    Raises:
        UserError: overriding without a reason; `OvertakenError` if somebody else's decision came first.
    """
    if override and not why:
        raise UserError("--override goes on record with its reason; give it: --why TEXT")
    if decision.standing is not None:
        return decision.standing
    moves = decision.passed or override
    entry = Entry(
        action=PROMOTED if moves else REFUSED,
        alias=decision.alias,
        previous=decision.previous,
        version=decision.release.versions["adaptor"],
        versions=decision.release.versions if moves else {},
        fingerprints=decision.release.fingerprints,
        gates=[verdict.as_dict() for verdict in decision.verdicts],
        override=override and not decision.passed,
        why=why,
    )
    record = registry.ledger.append(entry, decision.chain)
    if moves:
        finish(registry, decision.alias)
    _tag(registry, decision)
    return record


def promote(
    registry: Registry,
    kind: str,
    version: int,
    settings: Settings,
    *,
    alias: str = CHAMPION,
    measure: Measure | None = None,
    why: str = "",
    override: bool = False,
) -> Record:
    """Settles the alias, decides and enacts; arguments and errors as theirs."""
    _only_adaptor(registry, kind)
    with answering(registry.tracking_uri, _IN_DOUBT):
        settle(registry, alias)
        decision = decide(registry, kind, version, settings, alias=alias, measure=measure)
        return enact(registry, decision, why=why, override=override)


def rollback(registry: Registry, kind: str, *, to: int | None = None, why: str = "") -> Record:
    """Returns the champion alias to an earlier release, bit for bit; only its consistency is checked.

    Args:
        registry: The project's registry.
        kind: `adaptor`; ranker and encoder move with it.
        to: Adaptor version that was champion before; default the one before the present.
        why: Recorded.

    Raises:
        UserError: there is no such earlier release, or it is no longer what it was.
    """
    _only_adaptor(registry, kind)
    with answering(registry.tracking_uri, _IN_DOUBT):
        return _roll_back(registry, to, why)


def withdraw(registry: Registry, *, why: str = "") -> Record:
    """Takes the challenger alias away; its versions stay registered.

    Args:
        registry: The project's registry.
        why: Recorded.

    Raises:
        UserError: there is no challenger.
    """
    with answering(registry.tracking_uri, _IN_DOUBT):
        standing = settle(registry, CHALLENGER)
        if standing.version is None:
            raise UserError(
                "there is no challenger to withdraw; `coldstart promote adaptor VERSION --to challenger` names one"
            )
        entry = Entry(WITHDRAWN, CHALLENGER, previous=standing.version, version=None, versions={}, why=why)
        record = registry.ledger.append(entry, registry.ledger.trusted())
        finish(registry, CHALLENGER)
        return record


def sentence(record: Record) -> str:
    """A decision about an alias, for people."""
    entry = record.entry
    parts = ", ".join(f"{kind} {number}" for kind, number in entry.versions.items())
    failed = "; ".join(gate["note"] for gate in entry.gates if gate["passed"] is False)
    if entry.action == REFUSED:
        return f"refused: adaptor version {entry.version} does not become {entry.alias}: {failed}"
    if entry.version is None:
        return f"no {entry.alias} stands (before: version {entry.previous})"
    origin = f" (before: version {entry.previous})" if entry.previous not in (None, entry.version) else ""
    loud = f"; GATES OVERRIDDEN: {failed}" if entry.override else ""
    return f"{entry.alias} is adaptor version {entry.version}{origin}: {parts}{loud}"


def _roll_back(registry: Registry, to: int | None, why: str) -> Record:
    standing = settle(registry, CHAMPION)
    chain = registry.ledger.trusted()
    target = _earlier(chain, standing.version, to).entry
    assert target.version is not None
    _not_condemned(chain, target.version)
    release = registry.release(target.version)
    changed = [part for part, known in target.fingerprints.items() if release.fingerprints[part] != known]
    if changed:
        raise UserError(
            f"release {release.name} is not what it was when it stood as champion: {', '.join(changed)} changed; "
            "roll back to another version with --to"
        )
    entry = Entry(
        action=ROLLED_BACK,
        alias=CHAMPION,
        previous=standing.version,
        version=target.version,
        versions=release.versions,
        fingerprints=release.fingerprints,
        why=why,
    )
    record = registry.ledger.append(entry, chain)
    finish(registry, CHAMPION)
    return record


def _earlier(chain: Chain, version: int | None, to: int | None) -> Record:
    path: Sequence[Record] = chain.releases(CHAMPION)
    if to is None:
        path = [record for record in path if record.entry.version != version]
        if not path:
            raise UserError("there is no release before the present champion; `coldstart history` shows what was")
        return path[-1]
    stood = [record for record in chain.in_force(CHAMPION) if record.entry.version == to and record.entry.versions]
    if not stood:
        raise UserError(
            f"adaptor version {to} was never champion, so there is nothing to roll back to; "
            f"`coldstart promote adaptor {to}` judges it"
        )
    return stood[-1]


def _only_adaptor(registry: Registry, kind: str) -> None:
    if kind != "adaptor":
        registry.model_name(kind)
        raise UserError(
            f"a {kind} moves with the release it belongs to; name an adaptor made for it: "
            "`coldstart promote adaptor VERSION`"
        )


def _not_condemned(chain: Chain, version: int) -> None:
    if version in chain.condemned("adaptor"):
        raise UserError(f"adaptor version {version} was deleted by `coldstart gc`; register it again to use it")


def _tag(registry: Registry, decision: Decision) -> None:
    """Keeps the latest verdicts with the version, where MLflow shows them; the record keeps them for good."""
    name, number = registry.model_name("adaptor"), str(decision.release.versions["adaptor"])
    for verdict in decision.verdicts:
        outcome = {True: "passed", False: "refused", None: "not compared"}[verdict.passed]
        key = GATES + verdict.label.replace(" ", "-")
        registry.client.set_model_version_tag(name, number, key, f"{outcome}: {verdict.note}")
