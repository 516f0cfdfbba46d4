"""Computes the metrics of scored rows with Ray Data, with the same results as in one process.

There are four passes over the Parquet parts. The first samples probabilities to choose ranges. The second computes sums
that do not depend on order. The third shuffles each variant's rows into ranges of its probability, and the fourth
shuffles all rows by user. Only sums per user and item, and arrays of fixed size, reach the driver.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
from numpy.typing import NDArray
from ray.data.context import ShuffleStrategy

from coldstart.data.streaming import quiet_ray_data
from coldstart.evaluation.protocol.partial_metrics import (
    MergedMetrics,
    Sums,
    check_finite,
    count_rows,
    range_metrics,
    range_of,
    sample_probabilities,
    user_metrics,
)
from coldstart.evaluation.protocol.protocol import EvaluationProtocol
from coldstart.evaluation.protocol.scored_rows import ScoredRows
from coldstart.evaluation.protocol.slices import SLICES
from coldstart.metrics.clicks import sigmoid

ROWS_PER_TASK = 200_000
"""Rows of a range or of a part of the users. A task has a few times as many numbers in memory as rows times scores."""
Batch = dict[str, NDArray[Any]]


def compute_metrics_from_parts(
    directory: Path, protocol: EvaluationProtocol, *, rows_per_task: int = ROWS_PER_TASK
) -> MergedMetrics:
    """Computes the metrics of the parts in a directory.

    Args:
        directory: Parquet parts of scored rows, visible to all machines.
        protocol: The metrics.
        rows_per_task: Approximate number of rows per task.

    Raises:
        UserError: a variant has scores that are NaN or infinite.
    """
    quiet_ray_data()
    files = sorted(directory.absolute().glob("part-*.parquet"))
    tasks = -(-sum(pq.read_metadata(file).num_rows for file in files) // rows_per_task)
    rows = _read(files, tasks)
    cuts = _cuts(rows, protocol, tasks)
    counts = _summed(rows, lambda part: count_rows(part, protocol, cuts))
    check_finite(counts, protocol)
    return MergedMetrics.merge(protocol, counts, _ranges(rows, protocol, cuts, counts), _users(rows, protocol, tasks))


def _read(files: list[Path], tasks: int) -> ray.data.Dataset:
    """Reads all files with few tasks: starting a worker takes seconds, and so does `read_parquet`."""

    def read(block: dict[str, NDArray[Any]]) -> pa.Table:
        return pa.concat_tables(pq.read_table(file) for file in block["file"])

    listing = ray.data.from_items([{"file": str(file)} for file in files], override_num_blocks=min(tasks, len(files)))
    return listing.map_batches(read, batch_size=None, batch_format="numpy")


def _cuts(rows: ray.data.Dataset, protocol: EvaluationProtocol, ranges: int) -> NDArray[np.float64]:
    """[K, ranges - 1] lower bounds of ranges with about equally many rows."""
    if ranges == 1:
        return np.zeros((len(protocol.variants), 0))

    def sample(block: pa.Table) -> Batch:
        return {"sample": sample_probabilities(ScoredRows.from_table(block), protocol).T}

    found = _numpy(rows.map_batches(sample, batch_size=None, batch_format="pyarrow"))["sample"]
    return np.quantile(found, np.arange(1, ranges) / ranges, axis=0, method="nearest").T


def _ranges(rows: ray.data.Dataset, protocol: EvaluationProtocol, cuts: NDArray[np.float64], counts: Sums) -> Sums:
    """`range_metrics` of all ranges, summed by variant."""
    total = counts["clicked"] + counts["skipped"]
    below = np.cumsum(total, axis=-1) - total
    ranges, bits = total.shape[-1], 1 << np.arange(len(SLICES))

    def assign(block: pa.Table) -> pa.Table:
        part = ScoredRows.from_table(block)
        member = bits @ protocol.members(part)[: len(SLICES)]
        return pa.concat_tables(
            pa.table(
                {
                    "part": k * ranges + range_of(sigmoid(part.logits[name]), cuts[k]),
                    "logit": part.logits[name].astype(np.float64),
                    "label": part.label,
                    "member": member,
                }
            )
            for k, name in enumerate(protocol.variants)
        )

    def measure(group: pa.Table) -> Batch:
        columns = {name: np.asarray(group[name]) for name in group.column_names}
        k, number = divmod(int(columns["part"][0]), ranges)
        member = (columns["member"] & bits[:, None]) > 0
        found = range_metrics(
            columns["logit"],
            columns["label"],
            member,
            below=below[k, :, number],
            total=total[k].sum(-1),
            bins=protocol.bins,
        )
        return {"part": columns["part"][:1], **{name: values[None] for name, values in found.items()}}

    found = _numpy(_grouped(rows, assign, measure, ranges))
    order = np.argsort(found["part"])
    summed = {name: np.zeros((len(total), *found[name].shape[1:])) for name in ("wins", "bins")}
    for name, values in summed.items():
        np.add.at(values, found["part"][order] // ranges, found[name][order])
    return summed


def _users(rows: ray.data.Dataset, protocol: EvaluationProtocol, parts: int) -> pa.Table:
    """`user_metrics` of all users, from parts that have all rows of their users."""

    def assign(block: pa.Table) -> pa.Table:
        return block.append_column("part", pa.array(np.asarray(block["user_idx"]) % parts))

    def measure(group: pa.Table) -> pa.Table:
        found = user_metrics(ScoredRows.from_table(group), protocol)
        return found.append_column("part", pa.array(np.full(len(found), group["part"][0].as_py())))

    tables = ray.get(_grouped(rows, assign, measure, parts).to_arrow_refs())
    return pa.concat_tables(table for table in tables if table.num_rows).sort_by("part")


def _grouped(
    rows: ray.data.Dataset, assign: Callable[[pa.Table], pa.Table], measure: Callable[[pa.Table], Any], parts: int
) -> ray.data.Dataset:
    """Applies `measure` to the rows that `assign` gives the same `part`."""
    assigned = rows.map_batches(assign, batch_size=None, batch_format="pyarrow")
    # Pull-based shuffle starts no actors, whose start takes longer than the shuffle itself on one machine.
    assigned.context.shuffle_strategy = ShuffleStrategy.SORT_SHUFFLE_PULL_BASED
    return assigned.groupby("part", num_partitions=parts).map_groups(measure, batch_format="pyarrow")


def _summed(rows: ray.data.Dataset, count: Callable[[ScoredRows], Sums]) -> Sums:
    def count_block(block: pa.Table) -> Batch:
        return {name: values[None] for name, values in count(ScoredRows.from_table(block)).items()}

    found = _numpy(rows.map_batches(count_block, batch_size=None, batch_format="pyarrow"))
    return {name: values.sum(0) for name, values in found.items()}


def _numpy(rows: ray.data.Dataset) -> Batch:
    """Collects a small result on the driver."""
    batches = list(rows.iter_batches(batch_size=None, batch_format="numpy"))
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
