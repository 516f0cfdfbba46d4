"""Arrow tables in Ray Data: read a user's table in tasks, map its blocks, and collect the rows."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
from joblib import cpu_count
from numpy.typing import NDArray
from ray.data import DataContext, ExecutionResources

from coldstart.data.readers import FileSplit, RawBatch, SourceTable, clean_file_split, file_splits
from coldstart.jobs.preflight import alive_nodes
from coldstart.ray_compat.core import attainable_resources
from coldstart.ray_compat.data import PacedScheduling

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


@contextmanager
def one_task_per_core() -> Iterator[None]:
    """In this block, Ray Data runs no more tasks at once than `parallel_tasks`, and its scheduling loop is paced."""
    context = DataContext.get_current()
    options, callbacks = context.execution_options, context.custom_execution_callback_classes
    before = options.resource_limits
    options.resource_limits = ExecutionResources.for_limits(cpu=parallel_tasks())
    context.custom_execution_callback_classes = [*callbacks, PacedScheduling]
    try:
        yield
    finally:
        options.resource_limits, context.custom_execution_callback_classes = before, callbacks


def parallel_tasks() -> int:
    """CPUs that the cluster has or can grow to, or the cores of this machine if it is the whole cluster.

    A local Ray has more logical CPUs than cores. Every further process takes seconds to start and gains nothing.
    """
    cpus, nodes = int(attainable_resources()["CPU"]), alive_nodes()
    grows = cpus > sum(node["Resources"].get("CPU", 0) for node in nodes)
    return cpus if grows or len(nodes) > 1 else min(cpus, cpu_count())


def map_blocks(rows: ray.data.Dataset, function: Callable[[pa.Table], pa.Table]) -> ray.data.Dataset:
    """Maps whole blocks."""
    return rows.map_batches(function, batch_size=None, batch_format="pyarrow")


def select_columns(rows: ray.data.Dataset, columns: list[str]) -> pa.Table:
    """Some columns of all rows, in the memory of this process."""
    return to_table(rows.select_columns(columns))


def split_rejected(rows: ray.data.Dataset, columns: list[str]) -> tuple[pa.Table, pa.Table]:
    """Row, key, reason and value of the rejected rows, and some columns of the others, in this process."""

    def rejected(block: pa.Table) -> pa.Table:
        return block.filter(pc.field("reason").is_valid()).select(["row", "key", "reason", "value"])

    def kept(block: pa.Table) -> pa.Table:
        return block.filter(pc.field("reason").is_null()).select(columns)

    return to_table(map_blocks(rows, rejected)), to_table(map_blocks(rows, kept))


def to_table(rows: ray.data.Dataset) -> pa.Table:
    """All rows, in the memory of this process."""
    tables = ray.get(rows.to_arrow_refs())
    return pa.concat_tables([table for table in tables if table.num_rows] or tables[:1])
