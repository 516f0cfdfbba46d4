"""A generated log of any size: users and items with text ids, popular items, times that ascend over the rows."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS_PER_GROUP = 1_000_000
EVENTS_PER_USER, EVENTS_PER_ITEM = 100, 200
FIRST, SECONDS = 1_700_000_000, 10_000_000


def write_log(directory: Path, events: int, *, seed: int = 0) -> None:
    """Writes `items.parquet` and `events.parquet`, with a click on every fifth row on average.

    Args:
        directory: Is created.
        events: Rows of the log.
        seed: Of the draws.
    """
    directory.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    users, items = max(events // EVENTS_PER_USER, 2), max(events // EVENTS_PER_ITEM, 2)
    user_id = pa.array([f"user-{n}" for n in rng.permutation(users)])
    item_id = pa.array([f"sku-{n}" for n in rng.permutation(items)])
    titles = pa.array([f"title of {name}" for name in item_id.to_pylist()])
    pq.write_table(pa.table({"item_id": item_id, "title": titles}), directory / "items.parquet")
    schema = pa.schema(
        [("user_id", pa.string()), ("item_id", pa.string()), ("timestamp", pa.int64()), ("clicked", pa.int8())]
    )
    with pq.ParquetWriter(directory / "events.parquet", schema) as writer:
        for start in range(0, events, ROWS_PER_GROUP):
            count = min(ROWS_PER_GROUP, events - start)
            position = (start + np.sort(rng.random(count)) * count) / events
            columns = [
                user_id.take(pa.array(rng.integers(0, users, count))),
                item_id.take(pa.array((items * rng.random(count) ** 2).astype(np.int64))),
                pa.array(FIRST + (position * SECONDS).astype(np.int64)),
                pa.array((rng.random(count) < 0.2).astype(np.int8)),
            ]
            writer.write_table(pa.table(columns, schema=schema), row_group_size=ROWS_PER_GROUP)
