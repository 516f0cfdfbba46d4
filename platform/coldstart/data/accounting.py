"""Accounting: every row in the files of a user's tables is used, merged, excluded by the split or in quarantine."""

from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from coldstart.config.errors import UserError
from coldstart.data.cleaning import (
    CONFLICTING_ITEM,
    CONFLICTING_USER,
    MERGED_EVENT,
    REPEATED_EVENT,
    REPEATED_ITEM,
    REPEATED_USER,
)
from coldstart.data.readers import SourceTable, Tables

MERGED = (REPEATED_ITEM, CONFLICTING_ITEM, REPEATED_USER, CONFLICTING_USER, REPEATED_EVENT, MERGED_EVENT)
"""Reasons of rows whose content another row of the same id or event replaces."""

_SHOWN_FILES = 10


@dataclass(frozen=True)
class FileAccount:
    """The rows of one file.

    Attributes:
        file: Its path below the directory of the tables.
        rows: Their number, counted without parsing them.
        used: In the dataset.
        merged: Repeat a used row.
        excluded: Valid, but the split keeps them out of the sequences.
        quarantined: Rejected with a reason.
    """

    file: str
    rows: int
    used: int
    merged: int
    excluded: int
    quarantined: int

    @property
    def accounted(self) -> int:
        """Rows whose fate is known."""
        return self.used + self.merged + self.excluded + self.quarantined


class Accounting:
    """Counts the rows of every file of the user's tables.

    Args:
        tables: The tables.
        root: Their directory.
    """

    def __init__(self, tables: Tables, root: Path) -> None:
        self.tables = tables
        self._tables, self._root = {table.name: table for table in tables.all}, root.absolute()
        self._used: dict[str, NDArray[np.int64]] = {}
        self._used_rows: dict[str, pa.Array] = {}
        self._excluded: dict[str, NDArray[np.int64]] = {}

    def use(self, table: str, rows: pa.ChunkedArray) -> None:
        """Records the numbers of all used rows of a table."""
        self._used_rows[table] = rows.combine_chunks()
        self._used[table] = rows_per_file(self._tables[table], np.asarray(rows))

    def use_counts(self, table: str, used: NDArray[np.int64], excluded: NDArray[np.int64]) -> None:
        """Records the number of used rows and excluded rows of every file of a table."""
        self._used[table], self._excluded[table] = used, excluded

    def balance(self, quarantined: pa.Table) -> dict[str, list[FileAccount]]:
        """Accounts of all files by table.

        Args:
            quarantined: Rows of the quarantine: table, row, reason.

        Raises:
            UserError: the rows of a file do not add up.
        """
        accounts = {name: list(self._balance(table, quarantined)) for name, table in self._tables.items()}
        for name, files in accounts.items():
            for account in files:
                if account.accounted != account.rows:
                    raise UserError(
                        f"data.files.{name}: {self._root / account.file} has {account.rows} rows, but "
                        f"{account.accounted} are accounted for ({_parts(account)}); no dataset was written. If no "
                        "other program changes the file, report this as a fault"
                    )
        return accounts

    def _balance(self, table: SourceTable, quarantined: pa.Table) -> Iterator[FileAccount]:
        rows = quarantined.filter(pc.field("table") == table.name)
        if table.name in self._used_rows:
            # A row that is kept without its image is reported, and used.
            rows = rows.filter(pc.invert(pc.is_in(rows["row"], value_set=self._used_rows[table.name])))
        is_merged = pc.is_in(rows["reason"], value_set=pa.array(MERGED))
        rejected = _distinct(rows.filter(pc.invert(is_merged)))
        merged = np.setdiff1d(_distinct(rows.filter(is_merged)), rejected)
        none = np.zeros(len(table.files), np.int64)
        columns = (
            self._used.get(table.name, none),
            rows_per_file(table, merged),
            self._excluded.get(table.name, none),
            rows_per_file(table, rejected),
        )
        for index, (file, count) in enumerate(zip(table.files, table.rows, strict=True)):
            path = file.relative_to(self._root) if file.is_relative_to(self._root) else file
            yield FileAccount(str(path), count, *(int(column[index]) for column in columns))


def rows_per_file(table: SourceTable, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """[files] how many of some rows of a table each file contains.

    Raises:
        UserError: a row number is not below the number of rows of the table.
    """
    index = np.searchsorted(np.cumsum(table.rows), rows, side="right")
    counts = np.bincount(index, minlength=len(table.files)).astype(np.int64)
    if len(counts) > len(table.files):
        raise UserError(f"data.files.{table.name}: {table.files[-1]} yields more rows than were counted in it")
    return counts


def summary(accounts: dict[str, list[FileAccount]], tables: Tables, root: Path) -> Iterator[str]:
    """Lines that show the accounts of all files, and the files that are not read."""
    for table in tables.all:
        files = accounts[table.name]
        shown = files if len(files) <= _SHOWN_FILES else files[: _SHOWN_FILES - 1]
        for account in shown:
            yield f"{table.name}: {account.file}: {account.rows} rows = {_parts(account)}"
        if rest := files[len(shown) :]:
            total = FileAccount("", *(sum(getattr(one, name) for one in rest) for name in _COUNTS))
            yield f"{table.name}: {len(rest)} more files: {total.rows} rows = {_parts(total)}"
    yield from skipped_files(tables, root)


def skipped_files(tables: Tables, root: Path) -> Iterator[str]:
    """Lines that name the files that are not read, with the reason."""
    root = root.absolute()
    for table in tables.all:
        for one in table.skipped:
            path = one.path.relative_to(root) if one.path.is_relative_to(root) else one.path
            yield f"{table.name}: {path} is skipped: {one.reason}"


def as_json(accounts: dict[str, list[FileAccount]], tables: Tables, root: Path) -> dict[str, Any]:
    """Accounts and skipped files, for a file next to the dataset."""
    files = {name: [asdict(account) for account in rows] for name, rows in accounts.items()}
    return {"files": files, "skipped": list(skipped_files(tables, root))}


_COUNTS = ("rows", "used", "merged", "excluded", "quarantined")


def _parts(account: FileAccount) -> str:
    names: Collection[str] = [name for name in _COUNTS[2:] if getattr(account, name)]
    return " + ".join([f"{account.used} used", *(f"{getattr(account, name)} {name}" for name in names)])


def _distinct(rows: pa.Table) -> NDArray[np.int64]:
    return np.unique(np.asarray(rows["row"]))
