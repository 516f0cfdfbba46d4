"""Readers for a user's tables: find the files, check the columns, read them split by split."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq

from coldstart.config.errors import UserError
from coldstart.config.recipe import Columns, Files
from coldstart.data.arrow_types import can_name_images, is_byte_like, plain_type, role_of
from coldstart.data.column_check import Wanted, check_columns, check_values
from coldstart.data.columns import as_images
from coldstart.data.csv_records import count_records, read_header
from coldstart.data.features import OWNERS, FeatureColumn, Kind, Owner
from coldstart.data.image_files import ImageFiles
from coldstart.data.table_files import SkippedFile, find_files, is_csv

_READ_ROWS = 4096
_BATCH_ROWS = 131_072
"""Rows that are cleaned at once: looking up their items hashes the whole catalog."""
_BATCH_BYTES = 32_000_000
_LARGE_ROW_BATCH = 16
"""Rows that are read at once from a table with images, before their size is known."""
_NAMED_IMAGES = 128
"""Rows that are cleaned at once if they name image files, which are then all in memory."""
_BUFFER_BYTES = 8_000_000
"""Without a buffer, Arrow loads all images of a row group before the first of them can be read."""
_SAMPLE_ROWS = 16
_OWNER: dict[str, Owner] = {"items": "item", "events": "context", "users": "user"}


@dataclass(frozen=True)
class SourceTable:
    """A user's table: files of one format, read in order of name.

    Attributes:
        name: `items`, `events` or `users`.
        files: At least one.
        types: Column name -> Arrow type in the first file that has values of it; every CSV column is a string.
        rows: Number of rows of each file, counted without parsing them.
        skipped: Files that are not read.
        wanted: Pairs of recipe field and column name.
    """

    name: str
    files: tuple[Path, ...]
    types: dict[str, pa.DataType]
    rows: tuple[int, ...] = ()
    skipped: tuple[SkippedFile, ...] = ()
    wanted: tuple[tuple[str, str], ...] = ()

    @property
    def columns(self) -> list[str]:
        """Names of the wanted columns, each once."""
        return list(dict.fromkeys(column for _, column in self.wanted))


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
        rows: Number of its rows.
    """

    path: str
    row_group: int
    first_row: int
    size: int
    rows: int

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
    """Finds the tables; checks that they have rows, and that every file has the columns that the recipe names.

    Types are checked in every file, and a sample of the rows of every file is converted as `prepare` does. Of the image
    files that the samples name, one must exist; no request is sent to a server.

    Args:
        files: Paths and column names.
        extra: Further columns that the events table must have.

    Raises:
        UserError: a file or column is missing, a table is empty, a column cannot have the role that the recipe gives
            it, a CSV file is not UTF-8 or has a quote that is not closed, or no image file exists.
    """
    users = None if files.users is None else _find(files, files.users, "users")
    tables = Tables(_find(files, files.items, "items"), _find(files, files.events, "events", extra), users)
    tables.features(files.columns)
    for table in tables.all:
        if not any(table.rows):
            raise UserError(f"data.files.{table.name}: {table.files[0]} has no rows; set it to a table with data")
    if files.columns.image is not None:
        ImageFiles.of(files).check(_sample_references(tables.items, files.columns.image), files.columns.image)
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
    kind = columns.feature_kinds.get(name) or _kind(table.types[name])
    return FeatureColumn(owner=owner, name=name, kind=kind)


def _kind(kind: pa.DataType) -> Kind:
    stored = plain_type(kind)
    return "numeric" if pa.types.is_floating(stored) or pa.types.is_decimal(stored) else "categorical"


def _find(files: Files, name: str, table: str, extra: tuple[str, ...] = ()) -> SourceTable:
    with _named_errors(files.root / name, table):
        found, skipped = find_files(files.root, name, table)
    wanted = [*wanted_columns(files.columns, table), *((column, column) for column in extra)]
    features = feature_names(files.columns, _OWNER[table])
    single_line = {column for field, column in wanted if role_of(field) in ("id", "time", "label")}
    types: dict[str, pa.DataType] = {}
    rows = []
    for file in found:
        schema = _schema(file, table)
        check_columns(file, schema, wanted, found[0])
        for column in schema:
            if pa.types.is_null(types.get(column.name, pa.null())):
                types[column.name] = column.type
            undeclared = column.name in features and column.name not in files.columns.feature_kinds
            if undeclared and not pa.types.is_null(column.type) and _kind(column.type) != _kind(types[column.name]):
                raise UserError(
                    f"data.files.columns.feature_kinds: feature '{column.name}' has type {column.type} in {file}, but "
                    f"{types[column.name]} in other files of the table; declare its kind"
                )
        with _named_errors(file, table):
            rows.append(count_records(file, table, single_line) if is_csv(file) else pq.read_metadata(file).num_rows)
            _check_sample(file, wanted)
    return SourceTable(table, found, types, tuple(rows), skipped, tuple(wanted))


def _schema(file: Path, table: str) -> pa.Schema:
    with _named_errors(file, table):
        if is_csv(file):
            return pa.schema([(name, pa.string()) for name in read_header(file, table)])
        return pq.read_schema(file)


def _check_sample(file: Path, wanted: Wanted) -> None:
    """Converts the first rows of a Parquet file; every cell of a CSV file is text, which can be converted."""
    if not is_csv(file):
        for table in _first_rows(file, [column for _, column in wanted]):
            check_values(file, table, wanted)


def _first_rows(file: Path, columns: list[str]) -> Iterator[pa.Table]:
    """One table of some rows, or none if the file has no rows."""
    if is_csv(file):
        for batch in islice(_read_csv(FileSplit(str(file), -1, 0, 0, 0), columns), 1):
            yield batch.table.slice(0, _SAMPLE_ROWS)
        return
    with pq.ParquetFile(file, buffer_size=_BUFFER_BYTES, pre_buffer=False) as parquet:
        for batch in islice(parquet.iter_batches(_SAMPLE_ROWS, columns=columns), 1):
            yield pa.Table.from_batches([batch])


def _sample_references(table: SourceTable, column: str) -> Iterator[str]:
    """Names of image files in the first rows of every file."""
    if can_name_images(table.types[column]):
        for file in table.files:
            with _named_errors(file, table.name):
                for rows in _first_rows(file, [column]):
                    yield from pc.struct_field(as_images(rows[column]), "path").drop_null().to_pylist()


@contextmanager
def _named_errors(file: Path | str, field: str) -> Iterator[None]:
    """Turns whatever a library raises on a damaged file into an error that names the file."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise UserError(f"data.files.{field}: {file} cannot be read: {reason}") from error


def file_splits(table: SourceTable) -> list[FileSplit]:
    """The file splits of a table, with consecutive row numbers."""
    splits: list[FileSplit] = []
    row = 0
    for file, count in zip(table.files, table.rows, strict=True):
        if is_csv(file):
            splits.append(FileSplit(str(file), -1, row, file.stat().st_size, count))
            row += count
            continue
        with _named_errors(file, table.name):
            metadata = pq.read_metadata(file)
        for index in range(metadata.num_row_groups):
            group = metadata.row_group(index)
            splits.append(FileSplit(str(file), index, row, group.total_byte_size, group.num_rows))
            row += group.num_rows
    return splits


def clean_file_split(
    file_split: FileSplit, columns: list[str], clean: Callable[[RawBatch], pa.Table], wanted: Wanted, *, field: str
) -> Iterator[pa.Table]:
    """Reads columns of a file split in batches, and cleans each; small batches of rows that name image files.

    Args:
        file_split: The split.
        columns: Names in the file.
        clean: Converts a batch.
        wanted: Roles of columns, to find the column that cannot be converted.
        field: `items`, `events` or `users`, for error messages.

    Raises:
        UserError: the file is corrupt, or a value has no meaning for its column.
    """
    images = [column for name, column in wanted if name == "image" and column in columns]
    for batch in _small_batches(read_file_split(file_split, columns, field=field), images):
        try:
            cleaned = clean(batch)
        except UserError:
            raise
        except Exception as error:  # of any library, on values that nobody foresaw: name where they are
            check_values(file_split.path, batch.table, [pair for pair in wanted if pair[1] in columns])
            first, last = batch.first_row, batch.first_row + batch.table.num_rows - 1
            raise UserError(
                f"data.files.{field}: rows {first} to {last} of the table, in {file_split.path}, cannot be read: "
                f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            ) from error
        yield cleaned


def _small_batches(batches: Iterable[RawBatch], images: list[str]) -> Iterator[RawBatch]:
    """Cuts batches to _NAMED_IMAGES rows if one of these columns can name image files."""
    for batch in batches:
        rows = batch.table.num_rows
        if rows <= _NAMED_IMAGES or not any(can_name_images(batch.table[name].type) for name in images):
            yield batch
            continue
        for start in range(0, rows, _NAMED_IMAGES):
            malformed = batch.malformed if start + _NAMED_IMAGES >= rows else ()
            yield RawBatch(batch.first_row + start, batch.table.slice(start, _NAMED_IMAGES), malformed)


def read_file_split(file_split: FileSplit, columns: list[str], *, field: str) -> Iterator[RawBatch]:
    """Reads columns of a file split in batches; CSV lines with a wrong number of cells come last.

    Args:
        file_split: The split.
        columns: Names in the file.
        field: `items`, `events` or `users`, for error messages.

    Raises:
        UserError: the file is corrupt, or the parser finds another number of rows than were counted.
    """
    read = 0
    with _named_errors(file_split.path, field):
        for batch in _read_csv(file_split, columns) if file_split.row_group < 0 else _read_parquet(file_split, columns):
            read += batch.table.num_rows + len(batch.malformed)
            yield batch
    if read != file_split.rows:
        raise UserError(
            f"data.files.{field}: {file_split.path} has {file_split.rows} rows, but {read} were read; the file was "
            "changed meanwhile, or it has a line that the two counts split differently"
        )


def _read_parquet(file_split: FileSplit, columns: list[str]) -> Iterator[RawBatch]:
    row = file_split.first_row
    with pq.ParquetFile(file_split.path, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file:
        large = any(is_byte_like(file.schema_arrow.field(name).type) for name in columns)
        batches = file.iter_batches(
            _LARGE_ROW_BATCH if large else _READ_ROWS, row_groups=[file_split.row_group], columns=columns
        )
        for group in _grouped(batches):
            table = pa.Table.from_batches(group)
            yield RawBatch(row, table)
            row += table.num_rows


def _grouped(batches: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """Groups small batches to at most _BATCH_ROWS rows, and to _BATCH_BYTES unless one batch is larger."""
    group: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        if group and (rows + batch.num_rows > _BATCH_ROWS or size + batch.nbytes > _BATCH_BYTES):
            yield group
            group, rows, size = [], 0, 0
        group.append(batch)
        rows, size = rows + batch.num_rows, size + batch.nbytes
    if group:
        yield group


def _read_csv(file_split: FileSplit, columns: list[str]) -> Iterator[RawBatch]:
    row = file_split.first_row
    malformed: list[str] = []
    strings = csv.ConvertOptions(
        include_columns=columns,
        column_types=dict.fromkeys(columns, pa.string()),
        strings_can_be_null=True,
        null_values=[""],
    )
    with csv.open_csv(file_split.path, parse_options=_parse_options(malformed), convert_options=strings) as reader:
        for group in _grouped(reader):
            table = pa.Table.from_batches(group)
            yield RawBatch(row, table)
            row += table.num_rows
        empty = reader.schema.empty_table()
    if malformed:
        yield RawBatch(row, empty, tuple(malformed))


def _parse_options(malformed: list[str] | None = None) -> csv.ParseOptions:
    def skip(line: csv.InvalidRow) -> str:
        if malformed is not None:
            malformed.append(line.text)
        return "skip"

    return csv.ParseOptions(newlines_in_values=True, invalid_row_handler=skip)
