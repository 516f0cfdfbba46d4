"""An artifact: a directory that one stage hands to the next, with a manifest that proves what it is.

The directory is written beside its final place and renamed, so a reader never sees half of one.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coldstart.config.errors import UserError

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Artifact:
    """A directory whose manifest was read and whose files were verified.

    Attributes:
        path: The directory.
        kind: Noun of what it holds: dataset, ranker, encoder, proxies, adaptor, evaluation.
        fingerprint: sha256 over kind, lineage, description and the digests of all files.
        lineage: kind -> fingerprint of what it was made from.
        about: Free facts the producing stage wrote (sizes, metrics, settings).
    """

    path: Path
    kind: str
    fingerprint: str
    lineage: dict[str, str]
    about: dict[str, Any]


@contextmanager
def write_artifact(path: Path, kind: str, lineage: dict[str, str], about: dict[str, Any]) -> Iterator[Path]:
    """Yields an empty directory to fill; on success seals it with a manifest and moves it to `path`.

    `about` is read when the block ends, so facts found while writing can be added to it.
    """
    draft = path.with_name(f".{path.name}.draft-{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
        seal_artifact(draft, kind, lineage, about)
        old = path.with_name(f".{path.name}.old-{os.getpid()}")
        if path.exists():
            path.rename(old)
        draft.rename(path)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def seal_artifact(path: Path, kind: str, lineage: dict[str, str], about: dict[str, Any]) -> None:
    """Writes the manifest over everything that lies in `path`."""
    files = {
        str(file.relative_to(path)): _sha256(file)
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != MANIFEST
    }
    body = {"schema_version": SCHEMA_VERSION, "kind": kind, "lineage": lineage, "about": about, "files": files}
    (path / MANIFEST).write_text(json.dumps({"fingerprint": _fingerprint(body), **body}, indent=2))


def read_artifact(path: Path, kind: str, *, verify: bool = True) -> Artifact:
    """Opens an artifact.

    Args:
        path: The directory.
        kind: What it must hold.
        verify: Whether to compare the sha256 of every file with the manifest.

    Raises:
        UserError: not there, of another kind or schema version, or a file differs from its digest.
    """
    manifest = path / MANIFEST
    if not manifest.is_file():
        raise UserError(f"no {kind} at {path}: {MANIFEST} is missing; run the stage that makes it first")
    body = json.loads(manifest.read_text())
    if body["schema_version"] != SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema version {body['schema_version']}, this release reads {SCHEMA_VERSION}; make it anew"
        )
    if body["kind"] != kind:
        raise UserError(f"{path} holds a {body['kind']}, not a {kind}")
    if verify:
        if _fingerprint({key: value for key, value in body.items() if key != "fingerprint"}) != body["fingerprint"]:
            raise UserError(f"{manifest} was changed after it was written; make the {kind} anew")
        for name, expected in body["files"].items():
            file = path / name
            if not file.is_file() or _sha256(file) != expected:
                raise UserError(f"{file} is missing or differs from its manifest; make the {kind} anew")
    return Artifact(path, kind, body["fingerprint"], body["lineage"], body["about"])


def _fingerprint(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
