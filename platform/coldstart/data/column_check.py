"""Checks of the columns that a recipe names, against the schema and the values of one file."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path

import pyarrow as pa

from coldstart.config.errors import UserError
from coldstart.data.arrow_types import ColumnError, check_type, role_of
from coldstart.data.columns import CONVERSIONS

Wanted = Sequence[tuple[str, str]]
"""Pairs of recipe field and column name."""


def check_columns(file: Path, schema: pa.Schema, wanted: Wanted, first: Path) -> None:
    """Checks that a file has the columns, each once, with a type that its role allows.

    Args:
        file: The file.
        schema: Its columns.
        wanted: What to look for.
        first: First file of the table.

    Raises:
        UserError: a column is missing, is there twice, or has a wrong type.
    """
    for field, column in wanted:
        positions = schema.get_all_field_indices(column)
        if not positions:
            raise _missing(file, schema.names, field, column, first)
        if len(positions) > 1:
            raise UserError(
                f"data.files.columns.{field}: {file} has {len(positions)} columns named '{column}'; rename all but one"
            )
        try:
            check_type(schema.field(positions[0]).type, role_of(field))
        except ColumnError as error:
            raise UserError(f"data.files.columns.{field}: column '{column}' of {file} {error}") from error


def check_values(file: Path | str, table: pa.Table, wanted: Wanted) -> None:
    """Converts the columns of some rows of a file as cleaning does.

    Raises:
        UserError: values of a column cannot be read.
    """
    for field, column in wanted:
        try:
            CONVERSIONS[role_of(field)](table[column])
        except Exception as error:  # whatever Arrow, pandas or NumPy raise on the user's values
            raise UserError(f"data.files.columns.{field}: column '{column}' of {file} {reason_of(error)}") from error


def reason_of(error: Exception) -> str:
    """The first line of an error of a column, as the end of a sentence that begins with the column."""
    if isinstance(error, ColumnError):
        return str(error)
    lines = str(error).splitlines() or [""]
    return f"cannot be read: {lines[0] or type(error).__name__}"


def _missing(file: Path, names: Iterable[str], field: str, column: str, first: Path) -> UserError:
    names = sorted(set(names))
    if file != first:
        return UserError(
            f"data.files.columns.{field}: {file} has no column '{column}', but {first.name} has it; add it, or remove "
            "the file"
        )
    near = get_close_matches(column, names, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"its columns are {', '.join(names)}"
    if len(names) == 1 and (marks := [mark for mark in ("\t", ";", "|") if mark in names[0]]):
        hint = f"its first line has no comma but {marks[0]!r}; save it with commas between the cells"
    optional = "; if the table has no such column, set it to null" if field in ("title", "text", "image") else ""
    return UserError(f"data.files.columns.{field}: {file} has no column '{column}': {hint}{optional}")
