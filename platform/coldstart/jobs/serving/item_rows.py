"""Rows of a dataset's items: digests, encoded features, and statistics of the texts."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from coldstart.data.content import Content
from coldstart.data.features import FeatureSchema
from coldstart.data.schema import DIGESTS, ITEMS


def item_rows(items: pa.Table, train_counts: pa.Table, schema: FeatureSchema) -> pa.Table:
    """Rows of a dataset's items, with digests and encoded features."""
    statistics = train_counts.take(pc.subtract(items["item_idx"], 1))
    columns = [statistics[name] if name in train_counts.column_names else items[name] for name in ITEMS.names]
    table = pa.table(columns, schema=ITEMS)
    contents = [Content(**row) for row in items.select(["title", "text", "image"]).to_pylist()]
    for name in DIGESTS:
        table = table.append_column(name, pa.array([getattr(content, name) for content in contents], pa.int64()))
    for key, codes in schema.encode(items).items():
        table = table.append_column(key, pa.array(codes))
    return table


def item_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer of one part of the items; images are compressed already."""
    compression = {name: "none" if name == "image" else "zstd" for name in schema.names}
    return pq.ParquetWriter(path, schema, compression=compression, use_dictionary=False)


def text_statistics(items: pa.Table) -> pa.Table:
    """One row: number of items with title, text and image, number of words, and the distinct words."""
    shown = {name: [len(items) - items[name].null_count] for name in ("title", "text", "image")}
    lists = [pc.utf8_split_whitespace(pc.utf8_lower(items[name].drop_null())) for name in ("title", "text")]
    words = pa.concat_arrays([values.combine_chunks().flatten() for values in lists])
    distinct = pa.array([words.unique().to_pylist()], pa.list_(pa.string()))
    return pa.table({**shown, "words": [len(words)], "distinct": distinct})
