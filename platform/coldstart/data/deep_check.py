"""A check of all rows of a user's tables: reads and cleans them as `prepare` does, and writes nothing."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from coldstart.config.recipe import Data
from coldstart.data.accounting import Accounting, as_json, rows_per_file, summary
from coldstart.data.cleaning import (
    CONFLICTING_ITEM,
    CONFLICTING_USER,
    REPEATED_ITEM,
    REPEATED_USER,
    clean_events,
    clean_items,
    clean_users,
    with_digests,
)
from coldstart.data.features import OWNERS, FeatureColumn, features_of
from coldstart.data.image_files import ImageFiles
from coldstart.data.negatives import ClickPool, add_negatives
from coldstart.data.plausibility import check_events, check_splits, check_time_zones, explain_rejection
from coldstart.data.quarantine import Quarantine
from coldstart.data.readers import RawBatch, SourceTable, check_files, clean_file_split, file_splits
from coldstart.data.sequences import order_events
from coldstart.data.splits import draw_split, held_out_items, split_counts, users_of

_KEPT = {
    "items": ["row", "key", "reason", "value", "digest", "item_id"],
    "users": ["row", "key", "reason", "digest", "user_id"],
    "events": ["row", "key", "reason", "value", "user_id", "item_idx", "timestamp", "label"],
}


@dataclass(frozen=True)
class DeepReport:
    """What `prepare` would do with the rows.

    Attributes:
        lines: For people.
        details: The accounts of all files, the files that are not read, and the reasons of rejected rows by table.
    """

    lines: tuple[str, ...]
    details: dict[str, Any]


def check_all_rows(data: Data, seed: int = 0) -> DeepReport:
    """Reads every row of the user's tables.

    Args:
        data: Names the tables and the split.
        seed: Of a split by items.

    Raises:
        UserError: `prepare` would raise it.
    """
    tables, columns = check_files(data.files), data.files.columns
    check_time_zones(tables.events, columns.timestamp)
    quarantine = Quarantine(data.max_rejected_fraction)
    accounting = Accounting(tables, data.files.root)
    declared = tables.features(columns)
    limits = {"max_bytes": data.max_image_bytes, "max_pixels": data.max_image_pixels}

    of_items, of_users, of_context = (features_of(declared, owner) for owner in OWNERS)
    images = ImageFiles.of(data.files)
    items = _clean(
        tables.items, lambda batch: with_digests(clean_items(batch, columns, images, features=of_items, **limits))
    )
    repeated = (REPEATED_ITEM, CONFLICTING_ITEM)
    catalog = quarantine.first_of_each(items, "item_id", repeated, "items", images.explain)
    accounting.use("items", catalog["row"])
    if tables.users is not None:
        users = _clean(tables.users, lambda batch: with_digests(clean_users(batch, columns, of_users)))
        first = quarantine.first_of_each(users, "user_id", (REPEATED_USER, CONFLICTING_USER), "users")
        accounting.use("users", first["row"])

    known = catalog["item_id"].combine_chunks()
    _check_events(data, seed, known, of_context, accounting, quarantine)

    accounts = accounting.balance(quarantine.rows)
    reasons = {table.name: quarantine.reasons(table.name) for table in tables.all}
    lines = [*summary(accounts, tables, data.files.root), *_reason_lines(reasons)]
    return DeepReport(tuple(lines), as_json(accounts, tables, data.files.root) | {"quarantined": reasons})


def _check_events(
    data: Data,
    seed: int,
    known: pa.Array,
    features: list[FeatureColumn],
    accounting: Accounting,
    quarantine: Quarantine,
) -> None:
    table, columns, threshold = accounting.tables.events, data.files.columns, data.files.positive_threshold

    def clean(batch: RawBatch) -> pa.Table:
        return clean_events(batch, columns, known, positive_threshold=threshold, oracle=False, features=features)

    events = _clean(table, clean)
    quarantine.add("events", events, len(events), partial(explain_rejection, known_items=known))
    valid = events.filter(pc.field("reason").is_null())
    check_events(valid, table.types[columns.timestamp], data.files)
    held_out = held_out_items(data, len(known), seed)
    plan = draw_split(users_of(valid, held_out), np.asarray(valid["timestamp"]), held_out, data, seed)
    ordered, repeated = order_events(plan.assign(events))
    rows = pa.table({"row": repeated["row"], "key": repeated["user_id"], "reason": repeated["reason"]})
    quarantine.add("events", rows, len(events))
    excluded = rows_per_file(table, np.asarray(plan.excluded(events)["row"]))
    accounting.use_counts("events", rows_per_file(table, np.asarray(ordered["row"])), excluded)
    longest = int(np.bincount(np.asarray(ordered["user_idx"])).max())
    if data.negatives is not None:
        clicks = plan.assign(events)
        pool = ClickPool.of(clicks, data.negatives)
        ordered = add_negatives(ordered, pool, data.negatives, np.random.default_rng(seed))
    check_splits(split_counts(ordered), longest)


def _clean(table: SourceTable, clean: Callable[[RawBatch], pa.Table]) -> pa.Table:
    kept = _KEPT[table.name]
    parts = [
        part.select(kept)
        for file_split in file_splits(table)
        for part in clean_file_split(file_split, table.columns, clean, table.wanted, field=table.name)
    ]
    return pa.concat_tables(parts)


def _reason_lines(reasons: dict[str, dict[str, int]]) -> Iterator[str]:
    for table, counts in reasons.items():
        for reason, number in counts.items():
            yield f"{table}: {number} rows: {reason}"
