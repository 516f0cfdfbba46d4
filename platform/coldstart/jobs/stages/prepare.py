"""Prepare: reads items and events once, with Ray Data, into the immutable dataset that all later stages use."""

import json
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from coldstart.config import Artifact, MetricsLog, Recipe, UserError, digest, read_artifact, write_artifact
from coldstart.config.recipe import Columns, Data, Files
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
from coldstart.data.features import FeatureColumn, FeatureSchema, features_of
from coldstart.data.image_files import ImageFiles
from coldstart.data.leaks import audit_features
from coldstart.data.plausibility import check_events, check_splits, check_time_zones, check_users, explain_rejection
from coldstart.data.quarantine import Quarantine
from coldstart.data.readers import RawBatch, SourceTable, check_files
from coldstart.data.schema import (
    FEATURES,
    HELD_OUT,
    ORACLE,
    SPLITS,
    TRAIN,
)
from coldstart.data.splits import SplitPlan
from coldstart.data.streaming import quiet_ray_data
from coldstart.data.synthetic import REVISION, generate
from coldstart.jobs.runner import stage_program
from coldstart.jobs.stages.dataset_parts import Drawing, merge_train_counts, write_items, write_sequences
from coldstart.jobs.stages.ray_tables import (
    map_blocks,
    map_file_splits,
    one_task_per_core,
    select_columns,
    split_rejected,
    to_table,
)
from coldstart.jobs.stages.split_plan import plan_split

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
        accounting = Accounting(tables, files.root)
        try:
            with one_task_per_core():
                metadata |= _prepare(recipe, files, accounting, draft, quarantine, metrics_log)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise UserError(str(error.cause)) from error
            raise
        accounts = accounting.balance(quarantine.rows)
        quarantine.write(draft / "quarantine")
    # Next to the dataset: the fingerprint covers what is in it, and the names of the input files are no part of that.
    (run_dir / "accounting.json").write_text(json.dumps(as_json(accounts, tables, files.root), indent=2))
    for line in summary(accounts, tables, files.root):
        metrics_log.write(4, _STEPS, note=line)
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
    recipe: Recipe, files: Files, accounting: Accounting, draft: Path, quarantine: Quarantine, metrics_log: MetricsLog
) -> dict[str, Any]:
    """Writes items and sequences into `draft` and returns the metadata of the dataset."""
    tables = accounting.tables
    oracle = recipe.data.source == "generated"
    check_time_zones(tables.events, files.columns.timestamp)
    declared = tables.features(files.columns)
    item_rows = _read_items(tables.items, files, recipe.data, features_of(declared, "item")).materialize()
    catalog = _index_items(item_rows, quarantine, files)
    accounting.use("items", catalog["row"])
    metrics_log.write(2, _STEPS, items=len(catalog))

    known = catalog["item_id"].combine_chunks()
    event_rows = _read_events(
        tables.events, files, known, features_of(declared, "context"), oracle=oracle
    ).materialize()
    total = event_rows.count()
    rejected, kept = split_rejected(event_rows, ["timestamp", "label"])
    quarantine.add("events", rejected, total, partial(explain_rejection, known_items=known))
    check_events(kept, tables.events.types[files.columns.timestamp], files)
    metrics_log.write(3, _STEPS, items=len(catalog), events=total)

    plan = plan_split(event_rows, np.asarray(kept["timestamp"]), recipe.data, len(catalog), recipe.seed)
    users = _align_users(accounting, files.columns, features_of(declared, "user"), plan.users, quarantine)
    schema = _fit_features(declared, item_rows, catalog, users, event_rows, plan)
    write = partial(write_sequences, event_rows, tables.events, schema, users, Drawing.of(recipe))
    parts = write(plan, draft / "sequences")
    _account_events(accounting, event_rows, plan, parts)
    quarantine.add("events", pa.Table.from_struct_array(pc.list_flatten(parts["repeated"].combine_chunks())), total)
    splits = {name: np.asarray(pc.list_flatten(parts[name])).reshape(-1, 2).sum(0).tolist() for name in SPLITS}
    check_splits(splits, pc.max(parts["longest"]).as_py())
    if recipe.data.split.kind == "item_holdout":
        (draft / HELD_OUT).mkdir()
        write(replace(plan, keep_excluded=True), draft / HELD_OUT)
    metrics_log.write(4, _STEPS, items=len(catalog), events=total)

    train_counts = merge_train_counts(parts, len(catalog))
    texts = write_items(item_rows, catalog, train_counts, schema, draft / "items")
    if schema:
        (draft / FEATURES).write_text(schema.model_dump_json(indent=2))
    written, drawn = sum(number for number, _ in splits.values()), pc.sum(parts["drawn"]).as_py()
    return {
        "items": len(catalog),
        "users": len(plan.users),
        "events": written,
        "excluded_events": total - sum(quarantine.reasons("events").values()) - (written - drawn),
        **_drawn_negatives(drawn, written, metrics_log),
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


def _drawn_negatives(drawn: int, written: int, metrics_log: MetricsLog) -> dict[str, int]:
    """The entry of the metadata for drawn negatives, if there are any; the metrics log shows their number, too."""
    if not drawn:
        return {}
    metrics_log.write(4, _STEPS, note=f"events: {drawn} negatives drawn for {written - drawn} clicks")
    return {"drawn_negatives": drawn}


def _read_items(table: SourceTable, files: Files, data: Data, features: Sequence[FeatureColumn]) -> ray.data.Dataset:
    columns, images = files.columns, ImageFiles.of(files)
    limits = {"max_bytes": data.max_image_bytes, "max_pixels": data.max_image_pixels}

    def clean(batch: RawBatch) -> pa.Table:
        return with_digests(clean_items(batch, columns, images, features=features, **limits))

    return map_file_splits(table, table.columns, clean)


def _read_events(
    table: SourceTable, files: Files, item_ids: pa.Array, features: Sequence[FeatureColumn], *, oracle: bool
) -> ray.data.Dataset:
    columns, threshold = files.columns, files.positive_threshold
    # One moment for all tasks. Generated events may be later than today.
    latest = math.inf if oracle else time.time() + 86_400
    known = ray.put(item_ids)

    def clean(batch: RawBatch) -> pa.Table:
        return clean_events(
            batch,
            columns,
            ray.get(known),
            positive_threshold=threshold,
            oracle=oracle,
            features=features,
            latest=latest,
        )

    return map_file_splits(table, table.columns, clean)


def _index_items(rows: ray.data.Dataset, quarantine: Quarantine, files: Files) -> pa.Table:
    """The catalog: row and item_id of every valid item, ordered by item_id; row `i` has item index `i + 1`."""
    keys = select_columns(rows, ["row", "key", "reason", "value", "digest", "item_id"])
    repeated, explain = (REPEATED_ITEM, CONFLICTING_ITEM), ImageFiles.of(files).explain
    return quarantine.first_of_each(keys, "item_id", repeated, "items", explain).select(["row", "item_id"])


def _account_events(accounting: Accounting, rows: ray.data.Dataset, plan: SplitPlan, parts: pa.Table) -> None:
    """Counts the events of every file that are in the sequences, and those that the split excludes."""
    events = accounting.tables.events
    used = np.asarray(pc.list_flatten(parts["used"])).reshape(-1, len(events.files)).sum(0)
    if plan.cuts is None:
        dropped = to_table(map_blocks(rows, plan.excluded))["row"]
        accounting.use_counts("events", used, rows_per_file(events, np.asarray(dropped)))
    else:
        accounting.use_counts("events", used, np.zeros_like(used))


def _align_users(
    accounting: Accounting,
    columns: Columns,
    features: Sequence[FeatureColumn],
    users: pa.Array,
    quarantine: Quarantine,
) -> dict[str, pa.Array]:
    """Key -> typed values [U] of the user features, in the order of `users`; missing for users not in the table."""
    table = accounting.tables.users
    if table is None:
        return {}
    rows = to_table(
        map_file_splits(table, table.columns, lambda batch: with_digests(clean_users(batch, columns, features)))
    )
    kept = quarantine.first_of_each(rows, "user_id", (REPEATED_USER, CONFLICTING_USER), "users")
    accounting.use("users", kept["row"])
    check_users(users, kept["user_id"].combine_chunks())
    found = pc.index_in(users, value_set=kept["user_id"].combine_chunks())
    return {feature.key: kept[feature.key].combine_chunks().take(found) for feature in features}


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
    contexts = {feature.key: feature.kind for feature in features_of(declared, "context")}

    def train_values(block: pa.Table) -> pa.Table:
        train = ray.get(shared).assign(block).filter(pc.field("split") == TRAIN)
        columns = {key: train[key].combine_chunks() for key in ("item_idx", "user_idx", *contexts)}
        unique = {key: values if contexts.get(key) == "numeric" else values.unique() for key, values in columns.items()}
        return pa.table({key: pa.ListArray.from_arrays([0, len(values)], values) for key, values in unique.items()})

    statistics = to_table(map_blocks(event_rows, train_values))
    train = {key: pc.list_flatten(statistics[key].combine_chunks()) for key in statistics.column_names}
    keys = [feature.key for feature in features_of(declared, "item")]
    items = select_columns(item_rows, ["row", *keys])
    items = items.take(pc.index_in(catalog["row"], value_set=items["row"].combine_chunks()))
    values = {key: items[key].take(pc.subtract(train["item_idx"].unique(), 1)).combine_chunks() for key in keys}
    values |= {key: column.take(train["user_idx"].unique()) for key, column in users.items()} | train
    return FeatureSchema.fit({feature: values[feature.key] for feature in declared})


def main() -> None:
    """Runs it as a program."""
    stage_program("prepare", run, __doc__)
