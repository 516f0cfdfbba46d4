"""Shuffles rows into numbered parts: each block is split by part, and one task per part gets its rows of all blocks.

Ray Data's `groupby` sorts whole rows twice and starts a process per logical CPU, which took three times as long.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from coldstart.jobs.stages.ray_tables import parallel_tasks

Transform = Callable[[pa.Table], pa.Table]


def write_parts(rows: ray.data.Dataset, parts: int, assign: Transform, write: Transform) -> pa.Table:
    """Writes every part in a task.

    Args:
        rows: Rows of all parts.
        parts: Their number.
        assign: Adds the column `part`, from 0; may drop rows.
        write: Writes the rows of one part, which are in the order of `rows`, and returns a table of statistics.

    Returns:
        The statistics of all parts that have rows, in their order.
    """

    def split(block: pa.Table) -> Any:
        assigned = assign(block)
        part = np.asarray(assigned["part"]).astype(np.min_scalar_type(parts))  # small numbers are sorted by radix
        order = np.argsort(part, kind="stable")
        ordered, ends = assigned.take(order), np.searchsorted(part[order], np.arange(parts + 1))
        slices = [ordered.slice(start, end - start) for start, end in pairwise(ends)]
        return slices if parts > 1 else slices[0]

    def join(*slices: pa.Table) -> pa.Table | None:
        table = pa.concat_tables(slices)
        return write(table) if len(table) else None

    splitting, joining = ray.remote(num_returns=parts)(split), ray.remote(join)
    by_block = list(_throttled(lambda block: splitting.remote(block), rows.to_arrow_refs()))
    by_part = zip(*(slices if parts > 1 else [slices] for slices in by_block), strict=True)
    found = ray.get(list(_throttled(lambda slices: joining.remote(*slices), by_part)))
    return pa.concat_tables([statistics for statistics in found if statistics is not None])


def _throttled(start: Callable[[Any], Any], work: Iterable[Any]) -> Iterator[Any]:
    """Starts tasks, as many at a time as run in parallel, and yields their references in the order of the work."""
    limit, running = parallel_tasks(), list[Any]()
    for one in work:
        if len(running) >= limit:
            _, running = ray.wait(running, num_returns=1)
        started = start(one)
        running.append(started[0] if isinstance(started, list) else started)
        yield started
