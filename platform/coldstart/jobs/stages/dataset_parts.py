"""Writes the parts of a dataset, each in one Ray task: the sequences of some users, the content of some items."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
import ray.data

from coldstart.config.recipe import DrawnNegatives, Recipe
from coldstart.data.accounting import rows_per_file
from coldstart.data.dataset import part_path
from coldstart.data.features import FeatureSchema
from coldstart.data.negatives import ClickPool, add_negatives
from coldstart.data.readers import SourceTable
from coldstart.data.schema import (
    ITEMS,
    ITEMS_PER_PART,
    ITEMS_PER_ROW_GROUP,
    QUARANTINE,
    SPLITS,
    TRAIN,
    USERS_PER_PART,
)
from coldstart.data.sequences import order_events, sequence_rows
from coldstart.data.splits import SplitPlan, split_counts
from coldstart.jobs.serving.item_rows import item_rows, item_writer, text_statistics
from coldstart.jobs.stages.part_shuffle import write_parts
from coldstart.jobs.stages.ray_tables import map_blocks, to_table

_REPEATED = pa.schema([QUARANTINE.field(name) for name in ("row", "key", "reason")])
_TRAIN_COUNTS = pa.schema(
    [ITEMS.field(name) for name in ("item_idx", "first_event_at", "num_train_events", "num_train_clicks")]
)
_PART_STATISTICS = pa.schema(
    [
        pa.field("part", pa.int32()),
        pa.field("last_event_at", pa.int64()),
        pa.field("used", pa.list_(pa.int64())),
        pa.field("drawn", pa.int64()),
        pa.field("longest", pa.int64()),
        *(pa.field(name, pa.list_(pa.int64())) for name in SPLITS),
        pa.field("train_counts", pa.list_(pa.struct(_TRAIN_COUNTS))),
        pa.field("repeated", pa.list_(pa.struct(_REPEATED))),
    ]
)
"""Statistics of one part of the sequences: last event time, used rows per file, drawn negatives, length of the longest
sequence, events and clicks per split, train counts per item, repeated rows."""


@dataclass(frozen=True)
class Drawing:
    """How negatives are drawn.

    Attributes:
        settings: The recipe section `data.negatives`.
        seed: Of the run.
    """

    settings: DrawnNegatives
    seed: int

    @classmethod
    def of(cls, recipe: Recipe) -> "Drawing | None":
        """For a recipe; None if its log has impressions without clicks."""
        return None if recipe.data.negatives is None else cls(recipe.data.negatives, recipe.seed)


def write_sequences(
    rows: ray.data.Dataset,
    source: SourceTable,
    schema: FeatureSchema,
    users: dict[str, pa.Array],
    drawing: Drawing | None,
    plan: SplitPlan,
    directory: Path,
) -> pa.Table:
    """Groups events by user, writes one row per user, and returns statistics of each part."""
    shared = ray.put((plan, schema.of("context"), schema.of("user").encode(users)))
    pool = None if drawing is None else ray.put(_pool(rows, plan, drawing))

    def assign(block: pa.Table) -> pa.Table:
        plan, contexts, _ = ray.get(shared)
        kept = plan.assign(block).drop_columns("user_id")
        for key, codes in contexts.encode(kept).items():
            kept = kept.set_column(kept.column_names.index(key), key, pa.array(codes))
        return kept.append_column("part", pa.array(np.asarray(kept["user_idx"]) // USERS_PER_PART))

    def write(group: pa.Table) -> pa.Table:
        part, (plan, _, of_user) = group["part"][0].as_py(), ray.get(shared)
        ordered, repeated = order_events(group.append_column("user_id", plan.users.take(group["user_idx"])))
        used = rows_per_file(source, np.asarray(ordered["row"]))
        clicks, longest = len(ordered), int(np.bincount(np.asarray(ordered["user_idx"])).max())
        if drawing is not None and pool is not None:
            rng = np.random.default_rng((drawing.seed, 7, part))
            ordered = add_negatives(ordered, ray.get(pool), drawing.settings, rng)
        table = sequence_rows(ordered)
        for key, codes in of_user.items():
            table = table.append_column(key, pa.array(codes[np.asarray(table["user_idx"])]))
        # Dictionaries of times and ids take longer to write and more space.
        pq.write_table(table, part_path(directory, part), compression="zstd", use_dictionary=False)
        statistics = {"part": part, "used": used, "longest": longest, "drawn": len(ordered) - clicks}
        return _part_statistics(statistics, ordered, repeated)

    return write_parts(rows, -(-len(plan.users) // USERS_PER_PART), assign, write)


def _pool(rows: ray.data.Dataset, plan: SplitPlan, drawing: Drawing) -> ClickPool:
    """All clicks that the plan assigns to a split."""
    shared = ray.put(plan)

    def clicks(block: pa.Table) -> pa.Table:
        return ray.get(shared).assign(block).select(["timestamp", "item_idx", "split"])

    return ClickPool.of(to_table(map_blocks(rows, clicks)), drawing.settings)


def _part_statistics(known: dict[str, Any], events: pa.Table, repeated: pa.Table) -> pa.Table:
    """One row; `known` are the statistics that were counted already."""
    counted = known | split_counts(events) | {"last_event_at": pc.max(events["timestamp"]).as_py()}
    train = events.filter(pc.field("split") == TRAIN).group_by("item_idx")
    sums = train.aggregate([("timestamp", "min"), ("label", "count"), ("label", "sum")])
    keys = pc.binary_join_element_wise(repeated["user_id"], repeated["item_idx"].cast(pa.string()), " item_idx ")
    named = pa.table({"row": repeated["row"], "key": keys, "reason": repeated["reason"]})
    tables = {
        "train_counts": sums.rename_columns(_TRAIN_COUNTS.names).cast(_TRAIN_COUNTS),
        "repeated": named.cast(_REPEATED),
    }
    columns = {
        field.name: _one_list(tables[field.name]) if field.name in tables else pa.array([counted[field.name]])
        for field in _PART_STATISTICS
    }
    return pa.table(columns).cast(_PART_STATISTICS)


def _one_list(table: pa.Table) -> pa.ListArray:
    """All rows as the only value of a column."""
    return pa.ListArray.from_arrays([0, len(table)], table.to_struct_array().combine_chunks())


def merge_train_counts(parts: pa.Table, items: int) -> pa.Table:
    """Counts of train events per item, ordered by item index."""
    table = pa.Table.from_struct_array(pc.list_flatten(parts["train_counts"].combine_chunks())).group_by("item_idx")
    table = table.aggregate([("first_event_at", "min"), ("num_train_events", "sum"), ("num_train_clicks", "sum")])
    item, *known = (np.asarray(column) for column in table.columns)
    statistics = np.zeros((3, items + 1), np.int64)
    statistics[:, item] = known
    first, events, clicks = statistics[:, 1:]
    columns = [np.arange(1, items + 1), pa.array(first, mask=events == 0), events, clicks]
    return pa.table(columns, names=_TRAIN_COUNTS.names).cast(_TRAIN_COUNTS)


def write_items(
    rows: ray.data.Dataset, catalog: pa.Table, train_counts: pa.Table, schema: FeatureSchema, directory: Path
) -> dict[str, Any]:
    """Writes the items, ordered by item index, and returns statistics of their content."""
    source_row = np.asarray(catalog["row"])
    by_row = np.argsort(source_row)
    shared = ray.put((source_row[by_row], by_row.astype(np.int32) + 1, train_counts, schema.of("item")))

    def assign(block: pa.Table) -> pa.Table:
        known, index, *_ = ray.get(shared)
        row = np.asarray(block["row"])
        position = np.minimum(np.searchsorted(known, row), len(known) - 1)
        kept = block.append_column("item_idx", pa.array(index[position])).filter(pa.array(known[position] == row))
        return kept.append_column("part", pa.array((np.asarray(kept["item_idx"]) - 1) // ITEMS_PER_PART))

    def write(group: pa.Table) -> pa.Table:
        part, order = group["part"][0].as_py(), pc.sort_indices(group["item_idx"])
        _, _, train_counts, schema = ray.get(shared)
        with ExitStack() as stack:
            writer = None
            # One row group at a time: a part may hold gigabytes of images.
            for start in range(0, len(group), ITEMS_PER_ROW_GROUP):
                table = item_rows(group.take(order[start : start + ITEMS_PER_ROW_GROUP]), train_counts, schema)
                if writer is None:
                    writer = stack.enter_context(item_writer(part_path(directory, part), table.schema))
                writer.write_table(table, row_group_size=ITEMS_PER_ROW_GROUP)
        return text_statistics(group)

    grouped = write_parts(rows, -(-len(catalog) // ITEMS_PER_PART), assign, write)
    shown = {f"with_{name}": pc.sum(grouped[name]).as_py() for name in ("title", "text", "image")}
    mean = pc.sum(grouped["words"]).as_py() / len(catalog)
    distinct = pc.count_distinct(pc.list_flatten(grouped["distinct"])).as_py()
    return {**shown, "words_per_item": round(mean, 2), "distinct_words": distinct}
