"""Ray Data: streaming of item content in an exact order, and the function that silences its output."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray
import ray.data
from numpy.typing import NDArray
from ray.data import DataContext

from coldstart.config import check_same_artifact, read_artifact
from coldstart.data.content import Content
from coldstart.data.dataset import read_contents
from coldstart.ray_compat.data import PacedScheduling

Transform = Callable[[list[Content]], dict[str, NDArray[np.generic]]]
"""Converts the contents of n items to arrays [n, ...] whose shapes differ only in n between calls."""


def quiet_ray_data() -> None:
    """Turns off progress bars and printed plans in this process; a stage reports progress in its metrics log."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def stream_items(
    dataset_path: Path,
    order: NDArray[np.int64],
    transform: Transform,
    batch_size: int,
    *,
    block_rows: int = 256,
    num_cpus: float = 1,
) -> Iterator[dict[str, NDArray[np.generic]]]:
    """Streams items through Ray Data tasks in exactly the given order.

    To stream several epochs, concatenate their orders: one pipeline then runs through all of them without a pause.
    To resume, pass the rest of the order.

    Args:
        dataset_path: Dataset directory, on storage that all nodes can read.
        order: [n] item indices, 1..N; repeats are allowed.
        transform: Runs in the tasks (decode, resize, tokenize), e.g. `Encoder.prepare`; must be picklable.
        batch_size: Rows per batch; only the last batch may be smaller.
        block_rows: Items per task.
        num_cpus: Logical CPUs per task.

    Raises:
        UserError: the node of a task sees another dataset.

    Yields:
        `item_idx` [rows] int64 and the arrays of `transform` [rows, ...].
    """
    quiet_ray_data()
    order = np.asarray(order, np.int64)
    if not len(order):
        return
    path = Path(dataset_path).absolute()
    shared = ray.put(order)
    fingerprint = read_artifact(path, "dataset", verify=False).fingerprint

    def read(block: pa.Table) -> dict[str, NDArray[np.generic]]:
        check_same_artifact(path, "dataset", fingerprint)
        item_idx = ray.get(shared)[np.asarray(block["id"])]
        return {"item_idx": item_idx, **transform(read_contents(path, item_idx))}

    positions = ray.data.range(len(order), override_num_blocks=-(-len(order) // block_rows))
    positions.context.execution_options.preserve_order = True
    positions.context.custom_execution_callback_classes = [PacedScheduling]
    rows = positions.map_batches(read, batch_size=None, batch_format="pyarrow", num_cpus=num_cpus)
    yield from rows.iter_batches(batch_size=batch_size, batch_format="numpy", prefetch_batches=2)
