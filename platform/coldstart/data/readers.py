"""Readers for a user's tables: find the files, check the columns, read them split by split."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq

from coldstart.config.errors import UserError
from coldstart.config.recipe import Columns, Files
from coldstart.data.features import OWNERS, FeatureColumn, Owner

SUFFIXES = (".parquet", ".csv")
_BATCH_ROWS = 4096
_OWNER: dict[str, Owner] = {"items": "item", "events": "context", "users": "user"}


@dataclass(frozen=True)
class SourceTable:
    """A user's table: files of one format, read in order of name.

    Attributes:
        name: `items`, `events` or `users`.
        files: At least one.
        types: Column name -> Arrow type; every CSV column is a string until it is parsed.
    """

    name: str
    files: tuple[Path, ...]
    types: dict[str, pa.DataType]


@dataclass(frozen=True)
class Tables:
    """The user's tables; `users` is None unless the recipe names a users table."""

    items: SourceTable
    events: SourceTable
    users: SourceTable | None = None

    @property
    def all(self) -> tuple[SourceTable, ...]:
        """All tables that exist."""
        return (self.items, self.events) if self.users is None else (self.items, self.events, self.users)

    def features(self, columns: Columns) -> tuple[FeatureColumn, ...]:
        """The declared features of items, then users, then contexts.

        Raises:
            UserError: the type of a column cannot be a feature.
        """
        tables = {"item": self.items, "user": self.users, "context": self.events}
        return tuple(
            _feature(table, owner, name, columns)
            for owner in OWNERS
            if (table := tables[owner]) is not None
            for name in feature_names(columns, owner)
        )


@dataclass(frozen=True)
class FileSplit:
    """The unit that one task reads: a row group of a Parquet file, or a whole CSV file.

    Attributes:
        path: The file.
        row_group: Index of the row group; -1 for CSV.
        first_row: Number of its first row in the table.
        size: Approximate number of bytes to read.
    """

    path: str
    row_group: int
    first_row: int
    size: int

    def as_row(self) -> dict[str, Any]:
        """Its fields by name, as a row of a table."""
        return asdict(self)


@dataclass(frozen=True)
class RawBatch:
    """Rows of a user's table, not yet cleaned.

    Attributes:
        first_row: Number of the first row in the table.
        table: Well-formed rows.
        malformed: CSV lines with a wrong number of cells; their numbers follow those of `table`.
    """

    first_row: int
    table: pa.Table
    malformed: tuple[str, ...] = ()


def check_files(files: Files, *, extra: tuple[str, ...] = ()) -> Tables:
    """Finds the tables, and checks that they have rows and the columns that the recipe names.

    Args:
        files: Paths and column names.
        extra: Further columns that the events table must have.

    Raises:
        UserError: a file or column is missing, a table is empty, images are not bytes, or a column cannot be a feature.
    """
    users = None if files.users is None else _find(files.root, files.users, "users")
    tables = Tables(_find(files.root, files.items, "items"), _find(files.root, files.events, "events"), users)
    items, events = tables.items, tables.events
    for table in tables.all:
        for field, column in wanted_columns(files.columns, table.name):
            _require(table, field, column)
    for column in extra:
        _require(events, column, column)
    tables.features(files.columns)
    image = files.columns.image
    if image is not None and not _is_bytes(items.types[image]):
        raise UserError(
            f"data.files.columns.image: column '{image}' of {items.files[0]} has type {items.types[image]}, not "
            "binary; store encoded JPEG or PNG bytes in a Parquet file, or set data.files.columns.image: null"
        )
    for table in tables.all:
        if not any(_has_rows(file, table.name) for file in table.files):
            raise UserError(f"data.files.{table.name}: {table.files[0]} has no rows; set it to a table with data")
    return tables


def wanted_columns(columns: Columns, table: str) -> list[tuple[str, str]]:
    """Pairs of recipe field and column name in the user's table."""
    fields = {
        "items": ("item_id", "title", "text", "image", "created_at"),
        "events": ("user_id", "item_id", "timestamp", "label"),
        "users": ("user_id",),
    }[table]
    pairs = [(field, getattr(columns, field)) for field in fields]
    pairs += [("tags", tag) for tag in columns.tags if table == "items"]
    owner = _OWNER[table]
    pairs += [(f"{owner}_features", name) for name in feature_names(columns, owner)]
    return [(field, column) for field, column in pairs if column is not None]


def feature_names(columns: Columns, owner: Owner) -> tuple[str, ...]:
    """Names of the columns that the recipe declares as features of items, users or contexts."""
    names: tuple[str, ...] = getattr(columns, f"{owner}_features")
    return names


def _feature(table: SourceTable, owner: Owner, name: str, columns: Columns) -> FeatureColumn:
    kind, declared = table.types[name], columns.feature_kinds.get(name)
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if is_text or pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        return FeatureColumn(owner=owner, name=name, kind=declared or "categorical")
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return FeatureColumn(owner=owner, name=name, kind=declared or "numeric")
    raise UserError(
        f"data.files.columns.{owner}_features: column '{name}' of {table.files[0]} has type {kind}; a feature must be "
        "text, a boolean or a number: convert the column, or remove it from the list"
    )


def _find(root: Path, name: str, field: str) -> SourceTable:
    path = (root / name).absolute()
    if path.is_dir():
        found = {suffix: sorted(path.rglob(f"*{suffix}")) for suffix in SUFFIXES}
        kinds = [suffix for suffix, files in found.items() if files]
        if len(kinds) != 1:
            what = "both Parquet and CSV files" if kinds else "no .parquet or .csv file"
            raise UserError(f"data.files.{field}: directory {path} contains {what}; keep files of one format in it")
        files = tuple(found[kinds[0]])
    elif path.suffix not in SUFFIXES:
        raise UserError(f"data.files.{field}: {path} must be a .parquet file, a .csv file or a directory of either")
    elif not path.is_file():
        raise UserError(f"data.files.{field}: {path} does not exist; set data.files.root and data.files.{field}")
    else:
        files = (path,)
    types = _types(files[0], field)
    for file in files[1:]:
        if missing := set(types) - set(_types(file, field)):
            raise UserError(f"data.files.{field}: {file} has no column '{min(missing)}', but {files[0].name} has it")
    return SourceTable(field, files, types)


def _types(file: Path, field: str) -> dict[str, pa.DataType]:
    with _named_errors(file, field):
        if file.suffix == ".parquet":
            schema = pq.read_schema(file)
            return {column.name: column.type for column in schema}
        with csv.open_csv(file, parse_options=_parse_options()) as reader:
            return {name: pa.string() for name in reader.schema.names}


def _has_rows(file: Path, field: str) -> bool:
    with _named_errors(file, field):
        if file.suffix == ".parquet":
            return bool(pq.read_metadata(file).num_rows > 0)
        with csv.open_csv(file, parse_options=_parse_options()) as reader:
            return any(batch.num_rows for batch in reader)


@contextmanager
def _named_errors(file: Path | str, field: str) -> Iterator[None]:
    """Turns Arrow's errors into an error that names the file."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"data.files.{field}: {file} cannot be read: {reason}") from error


def _require(table: SourceTable, field: str, column: str) -> None:
    if column in table.types:
        return
    near = get_close_matches(column, table.types, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"its columns are {', '.join(sorted(table.types))}"
    optional = "; if the table has no such column, set it to null" if field in ("title", "text", "image") else ""
    raise UserError(f"data.files.columns.{field}: {table.files[0]} has no column '{column}': {hint}{optional}")


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def file_splits(table: SourceTable) -> list[FileSplit]:
    """The file splits of a table, with consecutive row numbers."""
    splits: list[FileSplit] = []
    row = 0
    for file in table.files:
        if file.suffix == ".csv":
            splits.append(FileSplit(str(file), -1, row, file.stat().st_size))
            if file != table.files[-1]:
                row += sum(_csv_rows(file))
            continue
        metadata = pq.read_metadata(file)
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group)
            splits.append(FileSplit(str(file), group, row, rows.total_byte_size))
            row += rows.num_rows
    return splits


def _csv_rows(file: Path) -> Iterator[int]:
    malformed: list[str] = []
    with csv.open_csv(file, parse_options=_parse_options(malformed)) as reader:
        yield from (batch.num_rows for batch in reader)
    yield len(malformed)


def read_file_split(file_split: FileSplit, columns: list[str], *, field: str) -> Iterator[RawBatch]:
    """Reads columns of a file split in batches; CSV lines with a wrong number of cells come last.

    Args:
        file_split: The split.
        columns: Names in the file.
        field: `items`, `events` or `users`, for error messages.

    Raises:
        UserError: the file is corrupt.
    """
    with _named_errors(file_split.path, field):
        yield from _read(file_split, columns)


def _read(file_split: FileSplit, columns: list[str]) -> Iterator[RawBatch]:
    row = file_split.first_row
    if file_split.row_group >= 0:
        with pq.ParquetFile(file_split.path) as file:
            for batch in file.iter_batches(_BATCH_ROWS, row_groups=[file_split.row_group], columns=columns):
                yield RawBatch(row, pa.Table.from_batches([batch]))
                row += batch.num_rows
        return
    malformed: list[str] = []
    strings = csv.ConvertOptions(
        include_columns=columns,
        column_types=dict.fromkeys(columns, pa.string()),
        strings_can_be_null=True,
        null_values=[""],
    )
    with csv.open_csv(file_split.path, parse_options=_parse_options(malformed), convert_options=strings) as reader:
        for batch in reader:
            yield RawBatch(row, pa.Table.from_batches([batch]))
            row += batch.num_rows
        empty = reader.schema.empty_table()
    if malformed:
        yield RawBatch(row, empty, tuple(malformed))


def _parse_options(malformed: list[str] | None = None) -> csv.ParseOptions:
    def skip(line: csv.InvalidRow) -> str:
        if malformed is not None:
            malformed.append(line.text)
        return "skip"

    return csv.ParseOptions(newlines_in_values=True, invalid_row_handler=skip)
