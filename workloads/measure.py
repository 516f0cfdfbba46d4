"""Measures scored rows with Ray Data: no process ever holds all of them, and the figures are those of one that did.

Four passes over the Parquet parts. The first two are sums: samples of the probabilities, from which ranges are cut,
and what needs no order. The third shuffles each variant's rows into ranges of its probability, the fourth all rows by
user. Only users' and items' sums and arrays of fixed size reach the driver.
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
from coldstart.evaluation.measured import (
    Measured,
    Sums,
    check_finite,
    count_rows,
    measure_range,
    measure_users,
    range_of,
    sample_probabilities,
)
from coldstart.evaluation.metrics import sigmoid
from coldstart.evaluation.protocol import Protocol
from coldstart.evaluation.scored_rows import ScoredRows
from coldstart.evaluation.slices import SLICES

ROWS_PER_TASK = 200_000
"""Of one user part or range; a task holds a few times as many numbers as rows times scores."""
Batch = dict[str, NDArray[Any]]


def measure_parts(directory: Path, protocol: Protocol, *, rows_per_task: int = ROWS_PER_TASK) -> Measured:
    """Measures the parts of a directory.

    Args:
        directory: Parquet parts of scored rows, seen by all machines.
        protocol: What is measured.
        rows_per_task: About how many rows meet in one task.

    Raises:
        UserError: a variant scored a row with something that is not a number.
    """
    quiet_ray_data()
    files = sorted(directory.absolute().glob("part-*.parquet"))
    tasks = -(-sum(pq.read_metadata(file).num_rows for file in files) // rows_per_task)
    rows = _read(files, tasks)
    cuts = _cuts(rows, protocol, tasks)
    counts = _added(rows, lambda part: count_rows(part, protocol, cuts))
    check_finite(counts, protocol)
    return Measured.merge(protocol, counts, _ranges(rows, protocol, cuts, counts), _users(rows, protocol, tasks))


def _read(files: list[Path], tasks: int) -> ray.data.Dataset:
    """The rows of all files in few tasks: starting a worker costs seconds (and so does `read_parquet`)."""

    def read(block: dict[str, NDArray[Any]]) -> pa.Table:
        return pa.concat_tables(pq.read_table(file) for file in block["file"])

    listing = ray.data.from_items([{"file": str(file)} for file in files], override_num_blocks=min(tasks, len(files)))
    return listing.map_batches(read, batch_size=None, batch_format="numpy")


def _cuts(rows: ray.data.Dataset, protocol: Protocol, ranges: int) -> NDArray[np.float64]:
    """[K, ranges - 1] where ranges of about as many rows begin."""
    if ranges == 1:
        return np.zeros((len(protocol.variants), 0))

    def sample(block: pa.Table) -> Batch:
        return {"sample": sample_probabilities(ScoredRows.from_table(block), protocol).T}

    found = _numpy(rows.map_batches(sample, batch_size=None, batch_format="pyarrow"))["sample"]
    return np.quantile(found, np.arange(1, ranges) / ranges, axis=0, method="nearest").T


def _ranges(rows: ray.data.Dataset, protocol: Protocol, cuts: NDArray[np.float64], counts: Sums) -> Sums:
    """What ranges of all variants say among themselves, added up by variant."""
    total = counts["clicked"] + counts["skipped"]
    below = np.cumsum(total, axis=-1) - total
    ranges, bits = total.shape[-1], 1 << np.arange(len(SLICES))

    def place(block: pa.Table) -> pa.Table:
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
        k, place = divmod(int(columns["part"][0]), ranges)
        member = (columns["member"] & bits[:, None]) > 0
        found = measure_range(
            columns["logit"],
            columns["label"],
            member,
            below=below[k, :, place],
            total=total[k].sum(-1),
            bins=protocol.bins,
        )
        return {"part": columns["part"][:1], **{name: values[None] for name, values in found.items()}}

    found = _numpy(_grouped(rows, place, measure, ranges))
    order = np.argsort(found["part"])
    summed = {name: np.zeros((len(total), *found[name].shape[1:])) for name in ("wins", "bins")}
    for name, values in summed.items():
        np.add.at(values, found["part"][order] // ranges, found[name][order])
    return summed


def _users(rows: ray.data.Dataset, protocol: Protocol, parts: int) -> pa.Table:
    """What users say, each in the part that holds all of his rows."""

    def place(block: pa.Table) -> pa.Table:
        return block.append_column("part", pa.array(np.asarray(block["user_idx"]) % parts))

    def measure(group: pa.Table) -> pa.Table:
        found = measure_users(ScoredRows.from_table(group), protocol)
        return found.append_column("part", pa.array(np.full(len(found), group["part"][0].as_py())))

    tables = ray.get(_grouped(rows, place, measure, parts).to_arrow_refs())
    return pa.concat_tables(table for table in tables if table.num_rows).sort_by("part")


def _grouped(
    rows: ray.data.Dataset, place: Callable[[pa.Table], pa.Table], measure: Callable[[pa.Table], Any], parts: int
) -> ray.data.Dataset:
    """Gathers the rows to which `place` gives the same `part` and measures them together."""
    placed = rows.map_batches(place, batch_size=None, batch_format="pyarrow")
    # Starts no actors, which would take longer than the shuffle of what fits one machine.
    placed.context.shuffle_strategy = ShuffleStrategy.SORT_SHUFFLE_PULL_BASED
    return placed.groupby("part", num_partitions=parts).map_groups(measure, batch_format="pyarrow")


def _added(rows: ray.data.Dataset, count: Callable[[ScoredRows], Sums]) -> Sums:
    def of(block: pa.Table) -> Batch:
        return {name: values[None] for name, values in count(ScoredRows.from_table(block)).items()}

    found = _numpy(rows.map_batches(of, batch_size=None, batch_format="pyarrow"))
    return {name: values.sum(0) for name, values in found.items()}


def _numpy(rows: ray.data.Dataset) -> Batch:
    """All rows of a small result, on this machine."""
    batches = list(rows.iter_batches(batch_size=None, batch_format="numpy"))
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
