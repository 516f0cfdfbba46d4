"""The files of a user's table: found below a path; each is read, or skipped with a reason."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from coldstart.config.errors import UserError

SUFFIXES = (".parquet", ".csv")
HIDDEN = "name starts with '.' or '_'"
BROKEN_LINK = "link that does not resolve"
LOOP = "link to a directory that contains it"
EMPTY = "empty file"
OTHER_FORMAT = "neither .parquet nor .csv"
NOT_A_FILE = "not a regular file"


@dataclass(frozen=True)
class SkippedFile:
    """A file or directory below a table's path that is not read.

    Attributes:
        path: Its path.
        reason: Why.
    """

    path: Path
    reason: str


def find_files(root: Path, name: str, field: str) -> tuple[tuple[Path, ...], tuple[SkippedFile, ...]]:
    """Finds the files of a table, in order of name, and those that are skipped.

    Args:
        root: Directory of the tables.
        name: Path of the table in it: a file or a directory.
        field: `items`, `events` or `users`, for error messages.

    Raises:
        UserError: there is no file, or there are files of both formats.
    """
    path = (root / name).absolute()
    if not path.is_dir():
        return (_single(path, field),), ()
    read: list[Path] = []
    skipped: list[SkippedFile] = []
    for file, reason in _walk(path, frozenset()):
        if reason is None:
            read.append(file)
        else:
            skipped.append(SkippedFile(file, reason))
    kinds = {file.suffix.lower() for file in read}
    if len(kinds) != 1:
        what = "both Parquet and CSV files" if kinds else "no .parquet or .csv file to read"
        seen = "".join(f"; {one.path.name}: {one.reason}" for one in skipped[:3] if not kinds)
        raise UserError(f"data.files.{field}: directory {path} contains {what}{seen}; keep files of one format in it")
    return tuple(sorted(read)), tuple(sorted(skipped, key=lambda one: one.path))


def is_csv(file: Path | str) -> bool:
    """Whether a table's file is CSV; otherwise it is Parquet."""
    return Path(file).suffix.lower() == ".csv"


def _single(path: Path, field: str) -> Path:
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"data.files.{field}: {path} must be a .parquet file, a .csv file or a directory of either")
    if path.is_symlink() and not path.exists():
        raise UserError(f"data.files.{field}: {path} is a {BROKEN_LINK}: it points to {os.readlink(path)}")
    if not path.is_file():
        raise UserError(f"data.files.{field}: {path} does not exist; set data.files.root and data.files.{field}")
    if not path.stat().st_size:
        raise UserError(f"data.files.{field}: {path} is empty, so it has no rows; set it to a table with data")
    return path


def _walk(directory: Path, above: frozenset[str]) -> Iterator[tuple[Path, str | None]]:
    """Pairs of file and the reason why it is skipped, None if it is read."""
    above |= {os.path.realpath(directory)}
    for entry in sorted(directory.iterdir()):
        if entry.name.startswith((".", "_")):
            yield entry, HIDDEN
        elif not entry.exists():
            yield entry, BROKEN_LINK
        elif entry.is_dir():
            if os.path.realpath(entry) in above:
                yield entry, LOOP
            else:
                yield from _walk(entry, above)
        else:
            yield entry, _reason(entry)


def _reason(file: Path) -> str | None:
    if file.suffix.lower() not in SUFFIXES:
        return OTHER_FORMAT
    if not file.is_file():
        return NOT_A_FILE
    return None if file.stat().st_size else EMPTY
