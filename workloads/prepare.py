"""Prepare: reads items and events once, with Ray Data, into the immutable dataset that all later stages use."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
import ray.data

from coldstart.config import Artifact, MetricsLog, Recipe, UserError, digest, read_artifact, write_artifact
from coldstart.config.recipe import Columns, Data, Files
from coldstart.data.cleaning import (
    REPEATED_EVENT,
    REPEATED_ITEM,
    REPEATED_USER,
    clean_events,
    clean_items,
    clean_users,
)
from coldstart.data.content import Content
from coldstart.data.dataset import part_path
from coldstart.data.features import FeatureColumn, FeatureSchema
from coldstart.data.leaks import audit_features
from coldstart.data.quarantine import Quarantine
from coldstart.data.readers import (
    RawBatch,
    SourceTable,
    Tables,
    check_files,
    wanted_columns,
)
from coldstart.data.schema import (
    DIGESTS,
    FEATURES,
    HELD_OUT,
    ITEMS,
    ITEMS_PER_PART,
    ITEMS_PER_ROW_GROUP,
    ORACLE,
    QUARANTINE,
    SPLITS,
    TRAIN,
    USERS_PER_PART,
)
from coldstart.data.sequences import order_events, sequence_rows
from coldstart.data.streaming import quiet_ray_data
from coldstart.data.synthetic import REVISION, generate
from workloads.ray_tables import map_file_splits, select_columns, to_table, write_parts
from workloads.runner import main
from workloads.split_plan import SplitPlan, plan_split

_STEPS = 5


def run(recipe: Recipe) -> Artifact:
    """Prepares the dataset of a run: `<run_dir>/dataset`.

    The same input and settings give the same bytes.

    Raises:
        UserError: an input file or column is missing, or too many rows are rejected.
    """
    quiet_ray_data()
    run_dir = recipe.run_dir.absolute()
    metrics_log = MetricsLog(run_dir / "metrics" / "prepare.jsonl")
    metrics_log.write(0, _STEPS)
    generated = recipe.data.source == "generated"
    files = generated_files(recipe, run_dir / "source") if generated else recipe.data.files
    tables = check_files(files, extra=ORACLE if generated else ())
    metrics_log.write(1, _STEPS)
    metadata: dict[str, Any] = {}
    shutil.rmtree(run_dir / "quarantine", ignore_errors=True)
    with write_artifact(run_dir / "dataset", "dataset", {}, metadata) as draft:
        for name in ("items", "sequences", "quarantine"):
            (draft / name).mkdir()
        quarantine = Quarantine(recipe.data.max_rejected_fraction, run_dir / "quarantine")
        try:
            metadata |= _prepare(recipe, files, tables, draft, quarantine, metrics_log)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise UserError(str(error.cause)) from error
            raise
        quarantine.write(draft / "quarantine")
    metrics_log.write(_STEPS, _STEPS, items=metadata["items"], users=metadata["users"], events=metadata["events"])
    return read_artifact(run_dir / "dataset", "dataset", verify=False)


def generated_files(recipe: Recipe, source: Path) -> Files:
    """The synthetic catalog as a user's files; generated again only if its settings, seed or revision differ."""
    marker = source / "settings.sha256"
    fingerprint = digest([recipe.data.generated.model_dump(), recipe.seed, REVISION])
    if not (marker.is_file() and marker.read_text() == fingerprint):
        shutil.rmtree(source, ignore_errors=True)
        generate(recipe.data.generated, recipe.seed, source)
        marker.write_text(fingerprint)
    return Files(root=source, columns=Columns(text="text", created_at="created_at"))


def _prepare(
    recipe: Recipe, files: Files, tables: Tables, draft: Path, quarantine: Quarantine, metrics_log: MetricsLog
) -> dict[str, Any]:
    """Writes items and sequences into `draft` and returns the metadata of the dataset."""
    oracle = recipe.data.source == "generated"
    declared = tables.features(files.columns)
    item_rows = _read_items(tables.items, files.columns, recipe.data, _features_of(declared, "item")).materialize()
    catalog = _index_items(item_rows, quarantine)
    metrics_log.write(2, _STEPS, items=len(catalog))

    known = catalog["item_id"].combine_chunks()
    event_rows = _read_events(
        tables.events, files, known, _features_of(declared, "context"), oracle=oracle
    ).materialize()
    total = event_rows.count()
    quarantine.add("events", select_columns(event_rows, ["row", "key", "reason"]), total)
    metrics_log.write(3, _STEPS, items=len(catalog), events=total)

    plan = plan_split(event_rows, recipe.data, len(catalog), recipe.seed)
    users = _align_users(tables.users, files.columns, _features_of(declared, "user"), plan.users, quarantine)
    schema = _fit_features(declared, item_rows, catalog, users, event_rows, plan)
    parts = _write_sequences(event_rows, plan, schema, users, draft / "sequences")
    quarantine.add("events", pa.Table.from_struct_array(pc.list_flatten(parts["repeated"].combine_chunks())), total)
    if recipe.data.split.kind == "item_holdout":
        (draft / HELD_OUT).mkdir()
        _write_sequences(event_rows, replace(plan, keep_excluded=True), schema, users, draft / HELD_OUT)
    metrics_log.write(4, _STEPS, items=len(catalog), events=total)

    train_counts = _train_counts(parts, len(catalog))
    texts = _write_items(item_rows, catalog, train_counts, schema, draft / "items")
    if schema:
        (draft / FEATURES).write_text(schema.model_dump_json(indent=2))
    splits = {name: np.asarray(pc.list_flatten(parts[name])).reshape(-1, 2).sum(0).tolist() for name in SPLITS}
    written = sum(number for number, _ in splits.values())
    return {
        "items": len(catalog),
        "users": len(plan.users),
        "events": written,
        "excluded_events": total - sum(quarantine.reasons("events").values()) - written,
        "splits": {name: {"events": number, "clicks": clicks} for name, (number, clicks) in splits.items()},
        "cold_items": int((train_counts["num_train_events"].to_numpy() == 0).sum()),
        "label_rate": round(sum(clicks for _, clicks in splits.values()) / max(written, 1), 6),
        "last_event_at": pc.max(parts["last_event_at"]).as_py(),
        "time_cuts": None if plan.cuts is None else asdict(plan.cuts),
        "oracle": oracle,
        "text": texts,
        "features": audit_features(draft, schema, files.columns.leak_allowlist),
        "split": recipe.data.split.model_dump(mode="json"),
        "seed": recipe.seed,
        "quarantined": {table.name: quarantine.reasons(table.name) for table in tables.all},
    }


def _features_of(declared: Sequence[FeatureColumn], owner: str) -> list[FeatureColumn]:
    return [feature for feature in declared if feature.owner == owner]


def _read_items(
    table: SourceTable, columns: Columns, data: Data, features: Sequence[FeatureColumn]
) -> ray.data.Dataset:
    limits = {"max_bytes": data.max_image_bytes, "max_pixels": data.max_image_pixels}
    names = [column for _, column in wanted_columns(columns, "items")]
    return map_file_splits(table, names, lambda batch: clean_items(batch, columns, features=features, **limits))


def _read_events(
    table: SourceTable, files: Files, item_ids: pa.Array, features: Sequence[FeatureColumn], *, oracle: bool
) -> ray.data.Dataset:
    columns, threshold = files.columns, files.positive_threshold
    known = ray.put(item_ids)
    names = [column for _, column in wanted_columns(columns, "events")] + list(ORACLE if oracle else ())

    def clean(batch: RawBatch) -> pa.Table:
        return clean_events(
            batch, columns, ray.get(known), positive_threshold=threshold, oracle=oracle, features=features
        )

    return map_file_splits(table, names, clean)


def _index_items(rows: ray.data.Dataset, quarantine: Quarantine) -> pa.Table:
    """The catalog: row and item_id of every valid item, ordered by item_id; row `i` has item index `i + 1`."""
    keys = select_columns(rows, ["row", "key", "reason", "item_id"])
    return quarantine.first_of_each(keys, "item_id", REPEATED_ITEM, "items").select(["row", "item_id"])


def _align_users(
    table: SourceTable | None,
    columns: Columns,
    features: Sequence[FeatureColumn],
    users: pa.Array,
    quarantine: Quarantine,
) -> dict[str, pa.Array]:
    """Key -> typed values [U] of the user features, in the order of `users`; missing for users not in the table."""
    if table is None:
        return {}
    names = [column for _, column in wanted_columns(columns, "users")]
    rows = to_table(map_file_splits(table, names, lambda batch: clean_users(batch, columns, features)))
    kept = quarantine.first_of_each(rows, "user_id", REPEATED_USER, "users")
    found = pc.index_in(users, value_set=kept["user_id"].combine_chunks())
    return {feature.key: kept[feature.key].combine_chunks().take(found) for feature in features}


_REPEATED = pa.schema([QUARANTINE.field(name) for name in ("row", "key", "reason")])
_TRAIN_COUNTS = pa.schema(
    [ITEMS.field(name) for name in ("item_idx", "first_event_at", "num_train_events", "num_train_clicks")]
)
_PART_STATISTICS = pa.schema(
    [
        pa.field("part", pa.int32()),
        pa.field("last_event_at", pa.int64()),
        *(pa.field(name, pa.list_(pa.int64())) for name in SPLITS),
        pa.field("train_counts", pa.list_(pa.struct(_TRAIN_COUNTS))),
        pa.field("repeated", pa.list_(pa.struct(_REPEATED))),
    ]
)
"""Statistics of one part of the sequences: last event time, events and clicks per split, train counts per item,
repeated rows."""


def _fit_features(
    declared: Sequence[FeatureColumn],
    item_rows: ray.data.Dataset,
    catalog: pa.Table,
    users: dict[str, pa.Array],
    event_rows: ray.data.Dataset,
    plan: SplitPlan,
) -> FeatureSchema:
    """Fits the schema on train events, and on the items and users that have train events."""
    if not declared:
        return FeatureSchema()
    shared = ray.put(plan)
    contexts = {feature.key: feature.kind for feature in _features_of(declared, "context")}

    def train_values(block: pa.Table) -> pa.Table:
        train = ray.get(shared).assign(block).filter(pc.field("split") == TRAIN)
        columns = {key: train[key].combine_chunks() for key in ("item_idx", "user_idx", *contexts)}
        unique = {key: values if contexts.get(key) == "numeric" else values.unique() for key, values in columns.items()}
        return pa.table({key: pa.ListArray.from_arrays([0, len(values)], values) for key, values in unique.items()})

    statistics = to_table(event_rows.map_batches(train_values, batch_size=None, batch_format="pyarrow"))
    train = {key: pc.list_flatten(statistics[key].combine_chunks()) for key in statistics.column_names}
    keys = [feature.key for feature in _features_of(declared, "item")]
    items = select_columns(item_rows, ["row", *keys])
    items = items.take(pc.index_in(catalog["row"], value_set=items["row"].combine_chunks()))
    values = {key: items[key].take(pc.subtract(train["item_idx"].unique(), 1)).combine_chunks() for key in keys}
    values |= {key: column.take(train["user_idx"].unique()) for key, column in users.items()} | train
    return FeatureSchema.fit({feature: values[feature.key] for feature in declared})


def _write_sequences(
    rows: ray.data.Dataset, plan: SplitPlan, schema: FeatureSchema, users: dict[str, pa.Array], directory: Path
) -> pa.Table:
    """Groups events by user, writes one row per user, and returns statistics of each part."""
    shared = ray.put((plan, schema.of("context"), schema.of("user").encode(users)))

    def assign(block: pa.Table) -> pa.Table:
        plan, contexts, _ = ray.get(shared)
        kept = plan.assign(block)
        for key, codes in contexts.encode(kept).items():
            kept = kept.set_column(kept.column_names.index(key), key, pa.array(codes))
        return kept.append_column("part", pa.array(np.asarray(kept["user_idx"]) // USERS_PER_PART))

    def write(group: pa.Table) -> pa.Table:
        part = group["part"][0].as_py()
        ordered, repeated = order_events(group)
        table = sequence_rows(ordered)
        for key, codes in ray.get(shared)[2].items():
            table = table.append_column(key, pa.array(codes[np.asarray(table["user_idx"])]))
        pq.write_table(table, part_path(directory, part), compression="zstd")
        return pa.Table.from_pylist([{"part": part, **_part_statistics(ordered, repeated)}], schema=_PART_STATISTICS)

    return write_parts(rows, assign, write)


def _part_statistics(events: pa.Table, repeated: pa.Table) -> dict[str, Any]:
    split, label = np.asarray(events["split"]), np.asarray(events["label"])
    statistics: dict[str, Any] = {
        name: [int((split == code).sum()), int(label[split == code].sum())] for name, code in SPLITS.items()
    }
    statistics["last_event_at"] = pc.max(events["timestamp"]).as_py()
    train = events.filter(pc.field("split") == TRAIN).group_by("item_idx")
    sums = train.aggregate([("timestamp", "min"), ("label", "count"), ("label", "sum")])
    statistics["train_counts"] = sums.rename_columns(_TRAIN_COUNTS.names).to_pylist()
    keys = pc.binary_join_element_wise(repeated["user_id"], repeated["item_idx"].cast(pa.string()), " item_idx ")
    statistics["repeated"] = [
        {"row": row, "key": key, "reason": REPEATED_EVENT}
        for row, key in zip(repeated["row"].to_pylist(), keys.to_pylist(), strict=True)
    ]
    return statistics


def _train_counts(parts: pa.Table, items: int) -> pa.Table:
    """Counts of train events per item, ordered by item index."""
    table = pa.Table.from_struct_array(pc.list_flatten(parts["train_counts"].combine_chunks())).group_by("item_idx")
    table = table.aggregate([("first_event_at", "min"), ("num_train_events", "sum"), ("num_train_clicks", "sum")])
    item, *known = (np.asarray(column) for column in table.columns)
    statistics = np.zeros((3, items + 1), np.int64)
    statistics[:, item] = known
    first, events, clicks = statistics[:, 1:]
    columns = [np.arange(1, items + 1), pa.array(first, mask=events == 0), events, clicks]
    return pa.table(columns, names=_TRAIN_COUNTS.names).cast(_TRAIN_COUNTS)


def _write_items(
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
        part, group = group["part"][0].as_py(), group.sort_by("item_idx")
        _, _, train_counts, schema = ray.get(shared)
        statistics = train_counts.take(pc.subtract(group["item_idx"], 1))
        table = pa.table(
            [statistics[name] if name in _TRAIN_COUNTS.names else group[name] for name in ITEMS.names], schema=ITEMS
        )
        contents = [Content(**row) for row in group.select(["title", "text", "image"]).to_pylist()]
        for name in DIGESTS:
            table = table.append_column(name, pa.array([getattr(content, name) for content in contents], pa.int64()))
        for key, codes in schema.encode(group).items():
            table = table.append_column(key, pa.array(codes))
        compression = {name: "none" if name == "image" else "zstd" for name in table.column_names}
        pq.write_table(
            table,
            part_path(directory, part),
            row_group_size=ITEMS_PER_ROW_GROUP,
            compression=compression,
            use_dictionary=False,
        )
        return _text_statistics(group)

    grouped = write_parts(rows, assign, write)
    shown = {f"with_{name}": pc.sum(grouped[name]).as_py() for name in ("title", "text", "image")}
    mean = pc.sum(grouped["words"]).as_py() / len(catalog)
    distinct = pc.count_distinct(pc.list_flatten(grouped["distinct"])).as_py()
    return {**shown, "words_per_item": round(mean, 2), "distinct_words": distinct}


def _text_statistics(items: pa.Table) -> pa.Table:
    """One row: number of items with title, text and image, number of words, and the distinct words."""
    shown = {name: [len(items) - items[name].null_count] for name in ("title", "text", "image")}
    lists = [pc.utf8_split_whitespace(pc.utf8_lower(items[name].drop_null())) for name in ("title", "text")]
    words = pa.concat_arrays([values.combine_chunks().flatten() for values in lists])
    distinct = pa.array([words.unique().to_pylist()], pa.list_(pa.string()))
    return pa.table({**shown, "words": [len(words)], "distinct": distinct})


if __name__ == "__main__":
    main("prepare", run, __doc__)
