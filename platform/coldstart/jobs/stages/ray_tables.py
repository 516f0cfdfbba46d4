"""Arrow tables in Ray Data: read a user's table in tasks, shuffle rows into parts, and collect the rows."""

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import ray
import ray.data
from numpy.typing import NDArray
from ray.data.context import ShuffleStrategy

from coldstart.data.readers import FileSplit, RawBatch, SourceTable, clean_file_split, file_splits

_TASK_BYTES = 32_000_000


def map_file_splits(
    table: SourceTable, columns: list[str], clean: Callable[[RawBatch], pa.Table], only: list[FileSplit] | None = None
) -> ray.data.Dataset:
    """Reads a table in Ray Data tasks and cleans every batch of its rows.

    Args:
        table: The user's table.
        columns: Names in the table, each once.
        clean: Runs in the tasks.
        only: File splits to read; None for all.
    """
    wanted, field = table.wanted, table.name

    def read(block: dict[str, NDArray[Any]]) -> Iterator[pa.Table]:
        for row in pa.table(block).to_pylist():
            yield from clean_file_split(FileSplit(**row), columns, clean, wanted, field=field)

    splits = file_splits(table) if only is None else only
    # Starting a worker costs seconds, so a small table gets few tasks.
    tasks = min(1 + sum(split.size for split in splits) // _TASK_BYTES, len(splits))
    listing = ray.data.from_items([split.as_row() for split in splits], override_num_blocks=tasks)
    return listing.map_batches(read, batch_size=1, batch_format="numpy")


def write_parts(
    rows: ray.data.Dataset, assign: Callable[[pa.Table], pa.Table], write: Callable[[pa.Table], pa.Table]
) -> pa.Table:
    """Groups rows into parts and writes every part in a task.

    Args:
        rows: Rows of all parts.
        assign: Adds the column `part`; may drop rows.
        write: Writes the rows of one part and returns a table of statistics.

    Returns:
        The statistics of all parts.
    """
    assigned = rows.map_batches(assign, batch_size=None, batch_format="pyarrow")
    # Takes half the time of the hash shuffle on tables that fit one machine, since it starts no actors.
    assigned.context.shuffle_strategy = ShuffleStrategy.SORT_SHUFFLE_PULL_BASED
    return to_table(assigned.groupby("part").map_groups(write, batch_format="pyarrow"))


def select_columns(rows: ray.data.Dataset, columns: list[str]) -> pa.Table:
    """Some columns of all rows, in the memory of this process."""
    return to_table(rows.select_columns(columns))


def to_table(rows: ray.data.Dataset) -> pa.Table:
    """All rows, in the memory of this process."""
    tables = ray.get(rows.to_arrow_refs())
    return pa.concat_tables([table for table in tables if table.num_rows] or tables[:1])
