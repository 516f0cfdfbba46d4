"""Where an alias stands: what the record says, what MLflow's aliases say, and how the two are brought together.

The newest record in force is the truth, and the aliases of the three kinds follow it. MLflow cannot move three aliases
at once, so a writer moves them after its record and then marks the record as settled. One that dies in between leaves
an unsettled record, which the next reader settles: seen through this module, a promotion happens wholly or not at all.

An alias that differs from a settled record was moved by hand, in MLflow's UI or API. If it stands at a whole release,
that is taken up and recorded; otherwise the aliases are put back, which is recorded too. MLflow has no conditional
alias write, so a process that stalls for seconds between reading the record and writing the alias, and dies before it
reads again, can leave the alias of an older record. That is then taken for a move by hand: it is noticed, shown in the
history, and stands at a release that was in force before.
"""

import time
from dataclasses import dataclass
from enum import Enum
from typing import Any

from coldstart.config import UserError
from coldstart.registry.ledger import PUT_BACK, TAKEN_UP, Chain, Entry, OvertakenError, Record
from coldstart.registry.packaging import KINDS
from coldstart.registry.registry import Registry
from coldstart.registry.release import Release

CHAMPION, CHALLENGER = "champion", "challenger"
ALIASES = (CHAMPION, CHALLENGER)
_LAST = "adaptor"
_SECOND_LOOK_SECONDS = 0.2
"""A difference that is gone after this was another process at work, not a hand."""
_ATTEMPTS = 10


class State(Enum):
    """How the aliases and the record agree."""

    NOTHING = "nothing stands"
    SETTLED = "as recorded"
    UNFINISHED = "recorded, aliases not moved yet"
    BY_HAND = "moved by hand"


@dataclass(frozen=True)
class Standing:
    """One alias at one moment.

    Attributes:
        alias: champion or challenger.
        state: How aliases and record agree.
        record: The record that says where it stands; `None` if there is none.
        found: kind -> version that MLflow's aliases name.
        trouble: By hand: why the release that the alias names is not taken up. Otherwise: why the recorded release
            cannot be used. `None` when nothing is wrong.
    """

    alias: str
    state: State
    record: Record | None
    found: dict[str, int]
    trouble: str | None = None

    @property
    def version(self) -> int | None:
        """Adaptor version that counts: the one moved to by hand if it is whole, else the recorded one."""
        if self.state is State.BY_HAND and self.trouble is None:
            return self.found.get(_LAST)
        return self.record.entry.version if self.record else None

    def sentence(self) -> str:
        """For people."""
        stands = f"{self.alias} stands at version {self.version}" if self.version else f"no {self.alias} stands"
        if self.state is State.BY_HAND:
            named = f"version {self.found[_LAST]}" if _LAST in self.found else "no version"
            outcome = f"is not taken up: {self.trouble}" if self.trouble else "is taken up"
            return f"{stands}; its alias was moved by hand to {named}, which {outcome}"
        return f"{stands} ({self.trouble or self.state.value})"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"alias": self.alias, "state": self.state.value, "version": self.version, "found": self.found} | {
            "record": self.record.number if self.record else None,
            "trouble": self.trouble,
        }


def look(registry: Registry, alias: str, chain: Chain | None = None) -> Standing:
    """Compares record and aliases; changes nothing.

    Args:
        registry: The project's registry.
        alias: champion or challenger.
        chain: Records that were read already.

    Raises:
        UserError: another alias, or somebody changed the records.
    """
    if alias not in ALIASES:
        raise UserError(f"no alias '{alias}'; allowed: {', '.join(ALIASES)}")
    chain = chain or registry.ledger.trusted()
    record = chain.head(alias)
    found = {kind: at[alias] for kind in KINDS if alias in (at := registry.aliases(kind))}
    expected = record.entry.versions if record else {}
    if record and not record.settled:
        return Standing(alias, State.UNFINISHED, record, found, _missing(registry, expected))
    if found == expected:
        state = State.SETTLED if expected else State.NOTHING
        return Standing(alias, state, record, found, None)
    missing = _missing(registry, expected)
    if missing and found.get(_LAST) in (None, expected[_LAST]):
        # Deleting a version in MLflow takes its alias with it: nothing was moved, and nothing can be put back.
        return Standing(alias, State.SETTLED, record, found, missing)
    return Standing(alias, State.BY_HAND, record, found, _unfit(registry, chain, found, expected))


def settle(registry: Registry, alias: str) -> Standing:
    """Brings aliases and record together: finishes what was left half done, takes up or puts back what a hand moved.

    Returns:
        The standing afterwards; with `trouble` if the recorded release is gone.

    Raises:
        UserError: somebody changed the records, or they keep changing.
    """
    suspected: Standing | None = None
    for _ in range(_ATTEMPTS):
        chain = registry.ledger.trusted()
        standing = look(registry, alias, chain)
        if standing.state is State.UNFINISHED and standing.trouble is None:
            finish(registry, alias)
        elif standing.state is not State.BY_HAND:
            return standing
        elif standing != suspected:
            suspected = standing
            time.sleep(_SECOND_LOOK_SECONDS)
        else:
            _record_hand(registry, standing, chain)
    raise UserError(f"alias '{alias}' of {registry.project} keeps moving; see who moves it and try again")


def resolve(registry: Registry, alias: str = CHAMPION) -> Release:
    """The release that stands at an alias, verified; settles first.

    Raises:
        UserError: nothing stands there, the release is not whole, or somebody changed the records.
    """
    standing = settle(registry, alias)
    if standing.version is None:
        raise UserError(
            f"{registry.model_name(_LAST)} has no {alias}; `coldstart promote adaptor VERSION --to {alias}` sets it"
        )
    if standing.trouble:
        raise UserError(f"{standing.sentence()}; `coldstart rollback adaptor` returns to the release before it")
    return registry.release(standing.version, alias=alias)


def finish(registry: Registry, alias: str) -> None:
    """Moves the aliases to where the record says, again when it changed meanwhile, and marks it as settled."""
    record: Record | None = None
    while (head := registry.ledger.trusted().head(alias)) != record and head is not None:
        _move(registry, alias, head.entry.versions)
        record = head
    if record is not None:
        registry.ledger.settle(record)


def _record_hand(registry: Registry, standing: Standing, chain: Chain) -> None:
    recorded = standing.record.entry if standing.record else None
    if standing.trouble is None:
        release = registry.release(standing.found[_LAST])
        entry = Entry(
            action=TAKEN_UP,
            alias=standing.alias,
            previous=recorded.version if recorded else None,
            version=release.versions[_LAST],
            versions=release.versions,
            fingerprints=release.fingerprints,
            why="the alias was moved by hand to a whole release",
        )
    else:
        kept = recorded if recorded and not _missing(registry, recorded.versions) else None
        entry = Entry(
            action=PUT_BACK,
            alias=standing.alias,
            previous=standing.found.get(_LAST),
            version=kept.version if kept else None,
            versions=kept.versions if kept else {},
            fingerprints=kept.fingerprints if kept else {},
            why=f"the alias was moved by hand: {standing.trouble}",
        )
    try:
        registry.ledger.append(entry, chain)
    except OvertakenError:
        return
    finish(registry, standing.alias)


def _unfit(registry: Registry, chain: Chain, found: dict[str, int], expected: dict[str, int]) -> str | None:
    """Why a release that a hand moved the alias to cannot be taken up."""
    version = found.get(_LAST)
    if version is None:
        return "the alias was taken away"
    if version == expected.get(_LAST):
        return "ranker and encoder move only with the adaptor that was made for them"
    if version in chain.condemned(_LAST):
        return f"adaptor version {version} is being deleted"
    try:
        registry.release(version)
    except UserError as error:
        return str(error)
    return None


def _missing(registry: Registry, versions: dict[str, int]) -> str | None:
    for kind, number in versions.items():
        try:
            registry.version(kind, number)
        except UserError as error:
            return str(error).partition(";")[0]
    return None


def _move(registry: Registry, alias: str, versions: dict[str, int]) -> None:
    """Moves the alias of every kind, the adaptor's last since MLflow's own readers follow that one."""
    for kind in sorted(KINDS, key=lambda kind: kind == _LAST):
        name, at = registry.model_name(kind), registry.aliases(kind).get(alias)
        wanted = versions.get(kind)
        if wanted is not None and at != wanted:
            registry.client.set_registered_model_alias(name, alias, str(wanted))
        elif wanted is None and at is not None:
            registry.client.delete_registered_model_alias(name, alias)
