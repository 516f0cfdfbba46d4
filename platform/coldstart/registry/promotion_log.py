"""The promotion log: append-only, hash-chained, stored in MLflow itself.

Event `n` is version `n` of the registered model `<project>-promotions`. One call writes it, with its content in a tag.

Compare-and-set works with MLflow's API alone, for processes on any machine and on any of MLflow's databases: a new
version gets the largest number ever used plus one (deleted versions included), and (model, number) is the primary key
of the table. So each number is assigned once, without gaps, and the writer of event `n` could read event `n - 1`. All
writers agree on one order. Each event stores its `parent`: the number of events that its writer had read. An event has
effect only if no event between its parent and itself has effect. If several decisions are based on the same state, the
first one has effect and supersedes the others, and every reader computes this from the log alone. A repeated write is
therefore harmless: the first copy supersedes the second.

Each event also stores a digest of all events up to its parent, so no such event can be changed or removed unnoticed.
The newest events, which no other event builds on yet, have a digest of their own content only.
"""

import getpass
import hashlib
import json
import os
import random
import secrets
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from mlflow.entities.model_registry import ModelVersion as MlflowVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from coldstart.config import UserError
from coldstart.registry.connection import fetch_all_pages

BODY, DIGEST, APPLIED = "coldstart.event", "coldstart.digest", "coldstart.applied"
_SOURCE = "coldstart://promotions/event"
_ATTEMPTS = 8
_RETRYABLE = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE")
"""MLflow's error codes for a locked database, too many writers, or a broken connection."""
PROMOTED, REFUSED, ROLLED_BACK, STOPPED = "promoted", "refused", "rolled back", "stopped"
MANUAL_ACCEPTED, MANUAL_REVERTED, DELETED = "manual change accepted", "manual change reverted", "deleted"


def _current_user() -> str:
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = f"uid {os.getuid()}"
    return f"{name}@{socket.gethostname()}"


@dataclass(frozen=True)
class Event:
    """A decision about an alias, or a deletion of versions.

    Attributes:
        action: One of the constants above.
        alias: The alias that changes; `None` for a deletion.
        previous: Scorer version that the alias pointed to before, if any.
        version: Scorer version that was requested; `None` removes the alias.
        versions: kind -> version that the alias points to from now on; empty if it is removed or does not move.
        reason: Free text from the user.
        fingerprints: kind -> fingerprint of these versions, and of the item table.
        gates: Gate results, one mapping each.
        override: Whether failed gates were overridden.
        deleted_versions: kind -> versions that are deleted; only for a deletion.
        actor: Account and machine; default: the current ones.
        time: UTC, ISO 8601.
    """

    action: str
    alias: str | None
    previous: int | None
    version: int | None
    versions: dict[str, int]
    reason: str
    fingerprints: dict[str, str] = field(default_factory=dict)
    gates: list[dict[str, Any]] = field(default_factory=list)
    override: bool = False
    deleted_versions: dict[str, list[int]] = field(default_factory=dict)
    actor: str = field(default_factory=_current_user)
    time: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="microseconds"))


@dataclass(frozen=True)
class LoggedEvent:
    """An event with its position in the log.

    Attributes:
        number: Position, from 1.
        event: The content.
        parent: Number of events that the writer had read.
        nonce: Random token of this one write.
        superseded_by: Number of the event that had effect first; `None` if this event has effect or moves no alias.
        applied: Whether MLflow's aliases were set accordingly.
    """

    number: int
    event: Event
    parent: int
    nonce: str
    superseded_by: int | None
    applied: bool

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        place = {"superseded_by": self.superseded_by, "applied": self.applied}
        return {"number": self.number, **asdict(self.event), **place}


@dataclass(frozen=True)
class LogSnapshot:
    """The whole log at one moment.

    Attributes:
        events: In order of their numbers.
        digest: Over all of them.
        problem: The evidence that somebody changed the log; `None` if there is none.
    """

    events: tuple[LoggedEvent, ...]
    digest: str
    problem: str | None

    def effective(self, alias: str | None = None) -> Iterator[LoggedEvent]:
        """Events that have effect, oldest first; only those of `alias` if given."""
        for logged in self.events:
            if _has_effect(logged.event) and logged.superseded_by is None and alias in (None, logged.event.alias):
                yield logged

    def head(self, alias: str) -> LoggedEvent | None:
        """The newest event that sets an alias."""
        return max(self.effective(alias), key=lambda logged: logged.number, default=None)

    def release_history(self, alias: str) -> list[LoggedEvent]:
        """The releases of an alias, oldest first, ending with the current one; a rollback removes later ones."""
        history: list[LoggedEvent] = []
        for logged in self.effective(alias):
            if logged.event.action == MANUAL_REVERTED or not logged.event.versions:
                continue
            earlier = [place for place, past in enumerate(history) if past.event.version == logged.event.version]
            if logged.event.action == ROLLED_BACK and earlier:
                history = history[: earlier[-1]]
            history.append(logged)
        return history

    def deleted_versions(self, kind: str) -> set[int]:
        """Versions of a kind that are deleted, or will be."""
        return {number for logged in self.effective() for number in logged.event.deleted_versions.get(kind, ())}


class ConflictError(UserError):
    """Another decision on the same state came first."""


class PromotionLog:
    """Reads and extends the promotion log of one project.

    Args:
        client: Of the registry.
        project: Prefix of the registered models.
    """

    def __init__(self, client: MlflowClient, project: str) -> None:
        self.client = client
        self.name = f"{project}-promotions"

    def read(self) -> LogSnapshot:
        """Reads and checks the log; a failed check is in `problem`."""
        found = fetch_all_pages(
            lambda token: self.client.search_model_versions(f"name='{self.name}'", page_token=token)
        )
        return _verify(self.name, sorted(found, key=lambda entry: int(entry.version)))

    def read_verified(self) -> LogSnapshot:
        """Reads the log.

        Raises:
            UserError: somebody changed it.
        """
        snapshot = self.read()
        if snapshot.problem:
            raise UserError(
                f"{snapshot.problem}; no promotion is possible: restore MLflow's database from a backup, or delete the "
                f"registered model {self.name} to start a new log"
            )
        return snapshot

    def append(self, event: Event, snapshot: LogSnapshot) -> LoggedEvent:
        """Adds a decision that is based on `snapshot`.

        Raises:
            ConflictError: another decision on the same snapshot came first; this one is logged without effect.
            UserError: it could not be written, or somebody changed the log.
        """
        if not snapshot.events:
            self._create_model()
        nonce = secrets.token_hex(8)
        fields = asdict(event) | {"parent": len(snapshot.events), "parent_digest": snapshot.digest, "nonce": nonce}
        body = json.dumps(fields, sort_keys=True)
        description = f"{event.action}: {event.reason or event.actor}"
        written = self._write(nonce, {BODY: body, DIGEST: _sha256(body)}, description)
        if written.superseded_by is not None:
            raise ConflictError(
                f"'{event.alias or self.name}' was changed by somebody else just now (event {written.superseded_by} "
                f"came before this one, {written.number}); check `coldstart history` and decide again"
            )
        return written

    def mark_applied(self, logged: LoggedEvent) -> None:
        """Marks that MLflow's aliases are set as the event requires."""
        self.client.set_model_version_tag(self.name, str(logged.number), APPLIED, "yes")

    def _write(self, nonce: str, tags: Mapping[str, str], description: str) -> LoggedEvent:
        """Writes once even if responses get lost: after each failure it searches for its nonce first."""
        failure: MlflowException | None = None
        for attempt in range(_ATTEMPTS):
            try:
                self.client.create_model_version(
                    self.name, _SOURCE, tags=dict(tags), description=description, await_creation_for=0
                )
            except MlflowException as error:
                failure = error
            written = next((logged for logged in self.read_verified().events if logged.nonce == nonce), None)
            if written is not None:
                return written
            if failure is not None and failure.error_code not in _RETRYABLE:
                break
            time.sleep(random.uniform(0, 0.1 * 2**attempt))
        reason = str(failure).splitlines()[0]
        raise UserError(f"the decision could not be logged in {self.name}, so no alias moved: {reason}; try again")

    def _create_model(self) -> None:
        try:
            self.client.create_registered_model(
                self.name,
                description="Promotions: what, by whom and why; one version per decision. Append-only; "
                "`coldstart history` reads and verifies it.",
            )
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise


def _verify(name: str, versions: Sequence[MlflowVersion]) -> LogSnapshot:
    digest, problem = _sha256(name), None
    digests = [digest]
    events: list[LoggedEvent] = []
    for place, version in enumerate(versions, start=1):
        number, body = int(version.version), version.tags.get(BODY, "")
        if problem is None and number != place:
            problem = f"event {place} of {name} was removed"
        if problem is None and version.tags.get(DIGEST) != _sha256(body):
            problem = f"event {number} of {name} was changed after it was written"
        if problem is not None:
            break
        fields = json.loads(body)
        parent, parent_digest, nonce = fields.pop("parent"), fields.pop("parent_digest"), fields.pop("nonce")
        if parent >= number or digests[parent] != parent_digest:
            problem = f"events 1 to {parent} of {name} differ from those that event {number} builds on: one was changed"
            break
        event = Event(**fields)
        superseded_by = _first_effective(events[parent:]) if _has_effect(event) else None
        events.append(LoggedEvent(number, event, parent, nonce, superseded_by, APPLIED in version.tags))
        digest = _sha256(f"{digest} {number} {body}")
        digests.append(digest)
    return LogSnapshot(tuple(events), digest, problem)


def _first_effective(events: Iterable[LoggedEvent]) -> int | None:
    effective = (logged for logged in events if _has_effect(logged.event) and logged.superseded_by is None)
    return next((logged.number for logged in effective), None)


def _has_effect(event: Event) -> bool:
    return event.action != REFUSED


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
