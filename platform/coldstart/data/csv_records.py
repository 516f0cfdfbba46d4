"""CSV files, counted independently of the parser that reads them: every line belongs to a record, or is named."""

import csv
import re
import sys
from collections.abc import Collection, Iterator
from itertools import chain
from pathlib import Path

from coldstart.config.errors import UserError

_CHUNK = 1 << 20
_LINE_END = re.compile(r"\r\n|\r|\n")
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def count_records(path: Path, field: str, single_line: Collection[str] = ()) -> int:
    """Counts the records of a CSV file after its header, whatever their number of cells; empty lines do not count.

    Args:
        path: The file.
        field: `items`, `events` or `users`, for error messages.
        single_line: Columns whose values cannot contain a line break: ids, times, labels.

    Raises:
        UserError: the file is not UTF-8, or a quote is not closed.
    """
    csv.field_size_limit(sys.maxsize)
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            return max(sum(1 for _ in _Records(stream, path, field, single_line)) - 1, 0)
    except UnicodeError as error:
        raise _not_utf8(path, field) from error


def read_header(path: Path, field: str) -> list[str]:
    """The names in the first record of a CSV file.

    Raises:
        UserError: the file is not UTF-8, or a quote is not closed.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            lines = _Records(stream, path, field, ())
            next(iter(lines), None)
            return lines.header or []
    except UnicodeError as error:
        raise _not_utf8(path, field) from error


def _not_utf8(path: Path, table: str) -> UserError:
    """The error that names the encoding, and the first byte that is not UTF-8 (or is zero)."""
    field = f"data.files.{table}"
    with path.open("rb") as stream:
        start = stream.read(2)
        if start in _UTF16:
            return UserError(f"{field}: {path} is UTF-16, not UTF-8 (byte order mark at byte 0); save it as UTF-8")
        stream.seek(0)
        position, rest = 0, b""
        while chunk := stream.read(_CHUNK):
            data = rest + chunk
            try:
                data.decode()
                end = len(data)
            except UnicodeDecodeError as error:
                # A character that the end of the chunk cuts is not a fault, unless the file ends there as well.
                if error.reason != "unexpected end of data" or not stream.peek(1):
                    where, value = position + error.start, data[error.start]
                    return UserError(
                        f"{field}: {path} is not UTF-8: byte {where} is 0x{value:02x} (Latin-1 or Windows-1252?); "
                        "save it as UTF-8"
                    )
                end = error.start
            if (zero := data.find(b"\0", 0, end)) >= 0:
                return UserError(
                    f"{field}: {path} has a zero at byte {position + zero} (UTF-16 or damaged?); save it as UTF-8"
                )
            position, rest = position + end, data[end:]
    return UserError(f"{field}: {path} is not UTF-8; save it as UTF-8")


class _Records:
    """Iterates over the records of a CSV file; only lines with quotes go through a parser."""

    def __init__(self, lines: Iterator[str], path: Path, field: str, single_line: Collection[str]) -> None:
        self._lines, self._path, self._field, self._single_line = lines, path, field, single_line
        self.header: list[str] | None = None
        self._number = 0

    def __iter__(self) -> Iterator[None]:
        for line in self._lines:
            self._number += 1
            if "\0" in line:
                raise UnicodeError("zero byte")
            if '"' not in line:
                if not line.strip("\r\n"):
                    continue
                if self.header is None:
                    self.header = line.strip("\r\n").split(",")
            else:
                self._quoted(line)
            yield None

    def _quoted(self, line: str) -> None:
        first = self._number
        reader = csv.reader(chain([line], self._lines), strict=True)
        try:
            cells = next(reader)
        except csv.Error as error:
            open_until_end = "unexpected end" in str(error)
            what = "a quote that is never closed" if open_until_end else "a quote that is closed within a cell"
            raise UserError(
                f"data.files.{self._field}: line {first} of {self._path} opens {what}; close it at the end of the "
                "cell, and double every quote inside a quoted cell"
            ) from error
        self._number += reader.line_num - 1
        if self.header is None:
            self.header = cells
        elif reader.line_num > 1:
            self._check_lines(first, cells)

    def _check_lines(self, first: int, cells: list[str]) -> None:
        """Refuses a cell over several lines that must have swallowed records."""
        assert self.header is not None
        for name, cell in zip(self.header, cells, strict=False):
            lines = _LINE_END.split(cell)
            inner = lines[1:-1]
            swallowed = len(self.header) > 2 and inner and all(self._is_record(line) for line in inner)
            if swallowed or (name in self._single_line and _LINE_END.search(cell.strip())):
                raise UserError(
                    f"data.files.{self._field}: line {first} of {self._path} opens a quote in column '{name}' that is "
                    f"closed {len(lines) - 1} lines later, and the lines look like records; close "
                    "the quote"
                )

    def _is_record(self, line: str) -> bool:
        assert self.header is not None
        return line.count(",") == len(self.header) - 1
