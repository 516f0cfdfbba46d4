"""An artifact: a directory that one stage writes for the next, with a manifest that identifies and verifies it.

A stage writes a temporary directory next to the final one and renames it, so a reader never sees a partial artifact.
"""

import errno
import fcntl
import hashlib
import json
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coldstart.config.errors import UserError

SCHEMA_VERSION = 2
MANIFEST = "manifest.json"
ABANDONED_SECONDS = 7 * 86_400
"""A draft of another host is abandoned if nothing in it has changed for so long."""


@dataclass(frozen=True)
class Artifact:
    """A directory with a manifest.

    Attributes:
        path: The directory.
        kind: What it contains: dataset, ranker, encoder, proxies, adaptor, evaluation.
        fingerprint: sha256 over kind, lineage, metadata and the sha256 of all files.
        lineage: kind -> fingerprint of each artifact that it was made from.
        metadata: Facts written by its stage (sizes, metrics, settings).
    """

    path: Path
    kind: str
    fingerprint: str
    lineage: dict[str, str]
    metadata: dict[str, Any]


@contextmanager
def write_artifact(path: Path, kind: str, lineage: dict[str, str], metadata: dict[str, Any]) -> Iterator[Path]:
    """Yields an empty directory; after the block, adds a manifest and renames the directory to `path`.

    `metadata` is read when the block ends, so the block can add to it. What a killed process left next to `path` is
    removed, and the artifact that it had moved aside is restored.

    Raises:
        UserError: the directory of `path` is not writable.
    """
    owner = f"{socket.gethostname()}-{uuid.uuid4().hex}"
    draft = path.with_name(f".{path.name}.draft-{owner}")
    lock = path.with_name(f".{path.name}.lock-{owner}")
    try:
        _clear_leftovers(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = lock.open("w")
        _is_locked_by_me(stream.fileno())
        draft.mkdir()
    except OSError as error:
        raise UserError(
            f"{path.parent} is not writable ({error.strerror}); set paths.runs to a directory that is"
        ) from error
    try:
        yield draft
        write_manifest(draft, kind, lineage, metadata)
        old = path.with_name(f".{path.name}.old-{owner}")
        if path.exists():
            path.rename(old)
        draft.rename(path)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        lock.unlink(missing_ok=True)
        stream.close()


def _clear_leftovers(path: Path) -> None:
    """Removes drafts that no process writes any more; restores an artifact that one of them had moved aside."""
    for old in path.parent.glob(f".{path.name}.old-*"):
        if _is_abandoned(old, path.name):
            if path.exists():
                shutil.rmtree(old)
            else:
                old.rename(path)
    for draft in path.parent.glob(f".{path.name}.draft-*"):
        if _is_abandoned(draft, path.name):
            shutil.rmtree(draft)
            draft.with_name(draft.name.replace(".draft-", ".lock-")).unlink(missing_ok=True)


def _is_abandoned(leftover: Path, name: str) -> bool:
    """Whether its writer is dead: its lock is free if it ran on this host; on another one, its files are old.

    Process numbers say nothing, since containers of one host name have their own. Locks may be local to a host.
    """
    owner = leftover.name.removeprefix(f".{name}.").partition("-")[2]
    if owner.rpartition("-")[0] != socket.gethostname():
        files = [leftover, *leftover.rglob("*")]
        return max(file.lstat().st_mtime for file in files) < time.time() - ABANDONED_SECONDS
    try:
        with leftover.with_name(f".{name}.lock-{owner}").open("r+") as stream:
            return _is_locked_by_me(stream.fileno())
    except FileNotFoundError:
        return True


def _is_locked_by_me(descriptor: int) -> bool:
    """Locks a file unless another process has; on storage without locks, nobody has."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
    return True


def write_manifest(path: Path, kind: str, lineage: dict[str, str], metadata: dict[str, Any]) -> None:
    """Writes the manifest of all files in `path`."""
    files = {
        str(file.relative_to(path)): _sha256(file)
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != MANIFEST
    }
    body = {"schema_version": SCHEMA_VERSION, "kind": kind, "lineage": lineage, "metadata": metadata, "files": files}
    (path / MANIFEST).write_text(json.dumps({"fingerprint": _fingerprint(body), **body}, indent=2))


def read_artifact(path: Path, kind: str, *, verify: bool = True) -> Artifact:
    """Opens an artifact.

    Args:
        path: The directory.
        kind: The kind it must have.
        verify: Whether to compare the sha256 of every file with the manifest.

    Raises:
        UserError: it does not exist, has another kind or schema version, or a file differs from its sha256.
    """
    manifest = path / MANIFEST
    if not manifest.is_file():
        raise UserError(f"no {kind} at {path}: {MANIFEST} is missing; run the stage that creates it first")
    try:
        body = json.loads(manifest.read_bytes())
    except ValueError as error:
        raise UserError(f"{manifest} is damaged: it is not JSON ({error}); create the {kind} again") from error
    if not isinstance(body, dict) or "schema_version" not in body:
        raise UserError(f"{manifest} is damaged: it is no manifest; create the {kind} again")
    if body["schema_version"] != SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema version {body['schema_version']}, but this version of coldstart reads "
            f"{SCHEMA_VERSION}; create the {kind} again"
        )
    if body["kind"] != kind:
        raise UserError(f"{path} is a {body['kind']}, not a {kind}")
    if verify:
        if _fingerprint({key: value for key, value in body.items() if key != "fingerprint"}) != body["fingerprint"]:
            raise UserError(f"{manifest} was changed after it was written; create the {kind} again")
        for name, expected in body["files"].items():
            file = path / name
            if not file.is_file() or _sha256(file) != expected:
                raise UserError(f"{file} is missing or differs from its manifest; create the {kind} again")
    return Artifact(path, kind, body["fingerprint"], body["lineage"], body["metadata"])


def check_same_artifact(path: Path, kind: str, fingerprint: str) -> None:
    """Checks that this node sees the artifact that a run uses, and not a copy of its own.

    Raises:
        UserError: it sees another one, or none; the message names the node.
    """
    advice = f"mount the storage of paths.runs at {path.parent} on every node"
    try:
        found = read_artifact(path, kind, verify=False).fingerprint
    except UserError as error:
        raise UserError(f"node {socket.gethostname()} does not see the {kind} of the run: {error}; {advice}") from error
    if found != fingerprint:
        raise UserError(
            f"node {socket.gethostname()} has another {kind} at {path} ({found[:12]}) than the run uses "
            f"({fingerprint[:12]}), a copy that is out of date; {advice}"
        )


def _fingerprint(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
