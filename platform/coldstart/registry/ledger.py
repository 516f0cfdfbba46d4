"""The promotion record: append-only, hash-chained, in MLflow itself.

Record `n` is version `n` of the registered model `<project>-promotions`, written in one call with all it says in a tag.

Why compare-and-set holds with MLflow's API alone, for processes on any machine and on any of MLflow's databases: a new
version's number is one above the largest ever used (deleted ones included), and (model, number) is the table's primary
key. So numbers are handed out once, without gaps, and whoever gets `n` wrote after record `n - 1` was readable. All
writers thereby agree on one order. A record says how many records its writer had seen when it decided, and is in force
only if no record in force lies between those and itself. Of any number of decisions taken on the same state, the first
to be numbered is in force, the others are overtaken, and every reader computes the same from the records alone. That
also makes a repeated write harmless: the second copy is overtaken by the first.

Every record carries a digest over all records its writer had seen, so none of them can be changed or removed
unnoticed. The newest ones, which nobody has built upon yet, are covered by a digest of their own.
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
from coldstart.registry.connection import pages

BODY, DIGEST, SETTLED = "coldstart.record", "coldstart.digest", "coldstart.settled"
_SOURCE = "coldstart://promotions/record"
_ATTEMPTS = 8
_PASSING = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE")
"""What MLflow says of a locked database, too many writers, or a connection that broke."""
PROMOTED, REFUSED, ROLLED_BACK = "promoted", "refused", "rolled back"
TAKEN_UP, PUT_BACK, COLLECTED, WITHDRAWN = "taken up", "put back", "collected", "withdrawn"


def _account() -> str:
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = f"uid {os.getuid()}"
    return f"{name}@{socket.gethostname()}"


@dataclass(frozen=True)
class Entry:
    """What somebody decided.

    Attributes:
        action: promoted, refused, rolled back; taken up or put back, after an alias was moved by hand; collected.
        alias: The alias it is about; `None` for collected.
        previous: Adaptor version that stood there before, if any.
        version: Adaptor version it was asked to stand at; `None` says at none.
        versions: kind -> version that stands from now on; empty when nothing stands or nothing moved.
        why: The reason given.
        fingerprints: kind -> fingerprint of these versions, and of the proxies.
        gates: Verdicts, one mapping each.
        override: Whether failed gates were overridden.
        condemned: kind -> versions that are deleted; only for collected.
        who: Account and machine; default those that run this.
        time: UTC, ISO 8601.
    """

    action: str
    alias: str | None
    previous: int | None
    version: int | None
    versions: dict[str, int]
    why: str
    fingerprints: dict[str, str] = field(default_factory=dict)
    gates: list[dict[str, Any]] = field(default_factory=list)
    override: bool = False
    condemned: dict[str, list[int]] = field(default_factory=dict)
    who: str = field(default_factory=_account)
    time: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="microseconds"))


@dataclass(frozen=True)
class Record:
    """An entry in its place.

    Attributes:
        number: Its place, from 1.
        entry: What it says.
        seen: Records its writer had seen.
        mark: Random token of this one write.
        overtaken: Number of the record that was in force first; `None` for one that is in force or moves nothing.
        settled: Whether MLflow's aliases were moved to where it says.
    """

    number: int
    entry: Entry
    seen: int
    mark: str
    overtaken: int | None
    settled: bool

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"number": self.number, **asdict(self.entry), "overtaken": self.overtaken, "settled": self.settled}


@dataclass(frozen=True)
class Chain:
    """All records at one moment.

    Attributes:
        records: By number.
        digest: Over all of them.
        problem: What shows that somebody changed them; `None` when all is well.
    """

    records: tuple[Record, ...]
    digest: str
    problem: str | None

    def in_force(self, alias: str | None = None) -> Iterator[Record]:
        """Records that count, oldest first; of one alias if named."""
        for record in self.records:
            if _moves(record.entry) and record.overtaken is None and alias in (None, record.entry.alias):
                yield record

    def head(self, alias: str) -> Record | None:
        """The record that says where an alias stands."""
        return max(self.in_force(alias), key=lambda record: record.number, default=None)

    def releases(self, alias: str) -> list[Record]:
        """The releases an alias came from, oldest first, up to the standing one; a rollback drops those above it."""
        path: list[Record] = []
        for record in self.in_force(alias):
            if record.entry.action == PUT_BACK or not record.entry.versions:
                continue
            earlier = [place for place, past in enumerate(path) if past.entry.version == record.entry.version]
            if record.entry.action == ROLLED_BACK and earlier:
                path = path[: earlier[-1]]
            path.append(record)
        return path

    def condemned(self, kind: str) -> set[int]:
        """Versions of a kind that were, or are about to be, deleted."""
        return {number for record in self.in_force() for number in record.entry.condemned.get(kind, ())}


class OvertakenError(UserError):
    """Somebody else's decision came first."""


class Ledger:
    """Reads and extends the record of one project.

    Args:
        client: Of the registry.
        project: Prefix of the registered models.
    """

    def __init__(self, client: MlflowClient, project: str) -> None:
        self.client = client
        self.name = f"{project}-promotions"

    def read(self) -> Chain:
        """All records, checked; what is wrong with them is in `problem`."""
        found = pages(lambda token: self.client.search_model_versions(f"name='{self.name}'", page_token=token))
        return _chain(self.name, sorted(found, key=lambda entry: int(entry.version)))

    def trusted(self) -> Chain:
        """All records.

        Raises:
            UserError: somebody changed them.
        """
        chain = self.read()
        if chain.problem:
            raise UserError(
                f"{chain.problem}; nothing is promoted on it: restore MLflow's database from a backup, or delete the "
                f"registered model {self.name} to begin a new record"
            )
        return chain

    def append(self, entry: Entry, chain: Chain) -> Record:
        """Adds a decision that was taken on the state `chain`.

        Raises:
            OvertakenError: another decision on the same state came first; this one is on record, and not in force.
            UserError: it could not be written, or somebody changed the records.
        """
        if not chain.records:
            self._make()
        mark = secrets.token_hex(8)
        said = asdict(entry) | {"seen": len(chain.records), "chain": chain.digest, "mark": mark}
        body = json.dumps(said, sort_keys=True)
        written = self._write(mark, {BODY: body, DIGEST: _sha256(body)}, f"{entry.action}: {entry.why or entry.who}")
        if written.overtaken is not None:
            raise OvertakenError(
                f"'{entry.alias or self.name}' was changed by somebody else just now (record {written.overtaken} came "
                f"before this one, {written.number}); look at `coldstart history` and decide again"
            )
        return written

    def settle(self, record: Record) -> None:
        """Marks that MLflow's aliases stand where the record says."""
        self.client.set_model_version_tag(self.name, str(record.number), SETTLED, "yes")

    def _write(self, mark: str, tags: Mapping[str, str], description: str) -> Record:
        """Writes once, whatever happens to the answers: after every failure it looks for its mark first."""
        failure: MlflowException | None = None
        for attempt in range(_ATTEMPTS):
            try:
                self.client.create_model_version(
                    self.name, _SOURCE, tags=dict(tags), description=description, await_creation_for=0
                )
            except MlflowException as error:
                failure = error
            written = next((record for record in self.trusted().records if record.mark == mark), None)
            if written is not None:
                return written
            if failure is not None and failure.error_code not in _PASSING:
                break
            time.sleep(random.uniform(0, 0.1 * 2**attempt))
        reason = str(failure).splitlines()[0]
        raise UserError(f"the decision could not be recorded in {self.name}, so nothing was moved: {reason}; try again")

    def _make(self) -> None:
        try:
            self.client.create_registered_model(
                self.name,
                description="What was promoted, by whom and why: one version per decision. Append-only; "
                "`coldstart history` reads and verifies it.",
            )
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise


def _chain(name: str, found: Sequence[MlflowVersion]) -> Chain:
    digest, problem = _sha256(name), None
    digests = [digest]
    records: list[Record] = []
    for place, version in enumerate(found, start=1):
        number, body = int(version.version), version.tags.get(BODY, "")
        if problem is None and number != place:
            problem = f"record {place} of {name} was removed"
        if problem is None and version.tags.get(DIGEST) != _sha256(body):
            problem = f"record {number} of {name} was changed after it was written"
        if problem is not None:
            break
        said = json.loads(body)
        seen, seen_digest, mark = said.pop("seen"), said.pop("chain"), said.pop("mark")
        if seen >= number or digests[seen] != seen_digest:
            problem = f"records 1 to {seen} of {name} are not those that record {number} was built on: one was changed"
            break
        entry = Entry(**said)
        first = _first_in_force(records[seen:]) if _moves(entry) else None
        records.append(Record(number, entry, seen, mark, first, SETTLED in version.tags))
        digest = _sha256(f"{digest} {number} {body}")
        digests.append(digest)
    return Chain(tuple(records), digest, problem)


def _first_in_force(records: Iterable[Record]) -> int | None:
    return next((record.number for record in records if _moves(record.entry) and record.overtaken is None), None)


def _moves(entry: Entry) -> bool:
    return entry.action != REFUSED


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
