"""Refresh: encodes new and changed items of the catalog and publishes them to the store of a served release.

A row is new or changed if its content and features differ from those the release was trained with, and from those that
were published since. So a refresh that is killed continues where it stopped, and no item is published twice. First,
published items that have no row in this release (as after a promotion) are encoded again.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data

from coldstart.config import MetricsLog, Recipe, UserError, load_recipe
from coldstart.config.shipped_recipes import find_recipe
from coldstart.data.content import Content
from coldstart.data.dataset import read_features
from coldstart.data.features import FeatureSchema
from coldstart.data.item_table import Rows, row_dtype
from coldstart.data.readers import RawBatch
from coldstart.data.streaming import quiet_ray_data
from coldstart.jobs.progress import CONSOLE, progress_line
from coldstart.jobs.runner import ray_cluster, readable_errors, recipe_arguments
from coldstart.jobs.serving.catalog_diff import CatalogDiff, CatalogRows, CatalogTable, KnownItems, diff_catalog
from coldstart.jobs.serving.row_actor import ROW, RowActor
from coldstart.methods.available import find_method
from coldstart.methods.encoder_actor import actor_pool_options, check_actor_capacity
from coldstart.registry import Registry, Release, resolve
from coldstart.serving.store.item_store import ItemStore
from coldstart.serving.store.publication_log import ItemRow, PublishedItem, item_digest
from coldstart.serving.store.store_bootstrap import bootstrap_store, open_store

STAGE = "refresh"
_PAGE = 4096
"""Published items in memory at a time while they are encoded again."""
_COMPACT_FROM = 1000
"""With this many changes in one refresh, the store is compacted: replicas then start faster than from the log."""
_FILES, _NEWEST, _STARTED = "refresh.files", "refresh.newest", "refresh.started"


@dataclass
class RefreshResult:
    """The result of one refresh.

    Attributes:
        release: Name of the release whose store was refreshed.
        reencoded: Published items that were encoded again for this release.
        files: Files that changed since the last refresh.
        rows: Rows that were compared.
        rejected: Rows that are not valid items.
        changed: New or changed items.
        published: Items of these that are rankable now; the others were published over the API in the meantime.
        backfilled: Published items that are older than the last refresh (or, in the first one, than its start).
        delays_s: Seconds from publication to rankable, of the other published items.
        seconds: Duration of the refresh.
    """

    release: str
    reencoded: int = 0
    files: int = 0
    rows: int = 0
    rejected: int = 0
    changed: int = 0
    published: int = 0
    backfilled: int = 0
    delays_s: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """All fields, with the delays as quantiles."""
        values = asdict(self)
        delays = values.pop("delays_s")
        p50, p99 = np.percentile(delays, [50, 99]).round(3).tolist() if delays else (None, None)
        return values | {"freshness_s": {"items": len(delays), "p50": p50, "p99": p99}}

    def __str__(self) -> str:
        fresh = self.as_dict()["freshness_s"]
        delay = f", rankable after p50 {fresh['p50']:g} s, p99 {fresh['p99']:g} s" if fresh["items"] else ""
        return (
            f"{self.release}: {self.published} of {self.changed} new or changed items published, {self.reencoded} "
            f"encoded again, in {self.seconds:.1f} s{delay}"
        )


def refresh(recipe: Recipe, release: Release) -> RefreshResult:
    """Refreshes the store of a release once; Ray must be initialized.

    Args:
        recipe: Names the catalog and the store.
        release: Its encoder and adaptor encode the items.

    Raises:
        UserError: the catalog cannot be read, the store cannot be reached, or the cluster is too small.
    """
    quiet_ray_data()
    started = time.time()
    check_actor_capacity(recipe.cluster)
    bootstrap_store(release, recipe.run_dir / "store", recipe.serving.store)
    result = RefreshResult(release.name, reencoded=reencode_published(recipe, release))
    metrics_log = MetricsLog(recipe.run_dir / "metrics" / f"{STAGE}.jsonl")
    metrics_log.clear()
    source = CatalogTable.of(recipe)
    _check_features(source, _schema(release))
    store = _store(recipe, release)
    try:
        log = store.publication_log
        stamps: dict[str, list[int]] = json.loads(log.get_value(_FILES) or "{}")
        last, newest = float(log.get_value(_STARTED) or started), float(log.get_value(_NEWEST) or "-inf")
        rows = CatalogRows(recipe, source, since=newest - recipe.refresh.allowed_lateness_s)
        changed = [
            file_split
            for file_split in source.file_splits
            if stamps.get(file_split.path) != source.stamps[file_split.path]
        ]
        diff = diff_catalog(rows, changed, KnownItems.of(release, log.states()))
        result.files = len({file_split.path for file_split in changed})
        result.rows, result.rejected, result.changed = diff.rows, diff.rejected, len(diff.row)
        metrics_log.write(0, result.changed)
        for entries in _encode_rows(recipe, release, rows, diff):
            kept = [item for (item, _), revision in zip(entries, log.publish(entries), strict=True) if revision]
            now = time.time()
            result.published += len(kept)
            result.delays_s += [now - item.published_at for item in kept if item.published_at > last]
            result.backfilled += sum(item.published_at <= last for item in kept)
            metrics_log.write(result.published, result.changed)
        if result.published + result.reencoded >= _COMPACT_FROM:
            store.compact()
        # Written last, so that a refresh after a killed one compares the same files again.
        log.set_value(_FILES, json.dumps(source.stamps))
        log.set_value(_STARTED, repr(started))
        if recipe.refresh.updated_at is not None:
            log.set_value(_NEWEST, repr(max(newest, diff.newest)))
    finally:
        store.close()
    result.seconds = round(time.time() - started, 3)
    return result


def reencode_published(recipe: Recipe, release: Release) -> int:
    """Encodes published items that have no row in the space of a release, and returns their number.

    Starts no actors if there are none.
    """
    quiet_ray_data()
    schema = _schema(release)
    store = _store(recipe, release)
    after = count = 0
    try:
        while pending := store.publication_log.items_without_row(after, _PAGE):
            check_actor_capacity(recipe.cluster)
            after = pending[-1].revision
            contents = [(item.content.title, item.content.text, item.content.image) for item in pending]
            names = [pa.string(), pa.string(), pa.large_binary()]
            columns = [pa.array(column, kind) for column, kind in zip(zip(*contents, strict=True), names, strict=True)]
            table = pa.table([np.arange(len(pending)), *columns], names=["position", "title", "text", "image"])
            for batch in _encode_in_actors(recipe, release, ray.data.from_arrow(table), len(pending)):
                items = [pending[position] for position in batch["position"].to_pylist()]
                rows = _make_rows(release, schema, items, batch)
                store.publication_log.update_rows(list(zip(items, rows, strict=True)))
                count += len(items)
    finally:
        store.close()
    return count


def _store(recipe: Recipe, release: Release) -> ItemStore:
    return open_store(release, recipe.run_dir / "store", recipe.serving.store)


def _schema(release: Release) -> FeatureSchema:
    return read_features(find_method(release.method).catalog_dir(release.paths))


def _check_features(source: CatalogTable, schema: FeatureSchema) -> None:
    declared = {feature.name for feature in source.features}
    for feature in schema.of("item").features:
        if feature.name not in declared:
            raise UserError(
                f"data.files.columns.item_features does not list '{feature.name}', which the scorer of the release "
                "reads; add its column"
            )


def _encode_rows(
    recipe: Recipe, release: Release, rows: CatalogRows, diff: CatalogDiff
) -> Iterator[list[tuple[PublishedItem, ItemRow]]]:
    """Reads the changed rows again and encodes them; yields each batch as soon as it is ready."""
    if not len(diff.row):
        return
    wanted = diff.row
    ends = [file_split.first_row for file_split in rows.source.file_splits[1:]] + [np.inf]
    splits = [
        file_split
        for file_split, end in zip(rows.source.file_splits, ends, strict=True)
        if ((wanted >= file_split.first_row) & (wanted < end)).any()
    ]

    def select(batch: RawBatch) -> pa.Table:
        table = rows.typed(batch, wanted)
        return table.filter(table["item_id"].is_valid())

    schema = _schema(release)
    for batch in _encode_in_actors(recipe, release, rows.map(splits, select), len(wanted)):
        items = [_item(row, rows) for row in batch.drop_columns([ROW]).to_pylist()]
        yield list(zip(items, _make_rows(release, schema, items, batch), strict=True))


def _item(row: dict[str, Any], rows: CatalogRows) -> PublishedItem:
    content, features = Content(row["title"], row["text"], row["image"]), rows.raw_features(row)
    changed_at = row["changed_at"]
    if np.isnan(changed_at):
        changed_at = rows.source.modified_at(row["row"])
    return PublishedItem(row["item_id"], content, features, changed_at, "catalog", item_digest(content, features))


def _make_rows(release: Release, schema: FeatureSchema, items: list[PublishedItem], batch: pa.Table) -> list[ItemRow]:
    """Rows of items from their bytes in a batch; features that the scorer cannot read are missing."""
    names = {feature.name for feature in schema.of("item").features}
    dtype = row_dtype(find_method(release.method).load_adaptor(release.paths).outputs)
    values: Rows = batch[ROW].combine_chunks().flatten().to_numpy().view(dtype)
    rows = []
    for item, row in zip(items, values, strict=True):
        raw = None if item.features is None else {name: item.features[name] for name in names & item.features.keys()}
        try:
            encoded = None if raw is None else schema.encode_values("item", raw)
        except UserError:
            encoded = schema.of("item").unknown(1)
        rows.append(ItemRow.of(row, encoded))
    return rows


def _encode_in_actors(recipe: Recipe, release: Release, rows: ray.data.Dataset, count: int) -> Iterator[pa.Table]:
    """Adds the bytes of the store's rows to rows that have title, text and image."""
    size = recipe.refresh.batch
    # Blocks of the same size, so that encoded items are stored early.
    encoded = rows.repartition(target_num_rows_per_block=size).map_batches(
        RowActor,
        fn_constructor_kwargs={
            "method": release.method,
            "parts": release.paths,
            "threads": recipe.cluster.threads_per_worker,
        },
        batch_size=size,
        batch_format="pyarrow",
        **actor_pool_options(recipe.cluster, -(-count // size)),
    )
    yield from encoded.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)


def _refreshes(recipe: Recipe, alias: str, every: float | None) -> Iterator[RefreshResult]:
    registry = Registry(recipe.tracking_uri, recipe.project)
    recipe.run_dir.mkdir(parents=True, exist_ok=True)
    while True:
        started = time.monotonic()
        metrics_log = MetricsLog(recipe.run_dir / "metrics" / f"{STAGE}.jsonl")
        with progress_line(STAGE, metrics_log):
            result = refresh(recipe, resolve(registry, alias))
        yield result
        if every is None:
            return
        time.sleep(max(started + every - time.monotonic(), 0))


def main() -> None:
    """Runs the program: one refresh, or one after the other."""
    parser = recipe_arguments(STAGE, __doc__)
    parser.add_argument("--alias", default="champion", help="release whose store is refreshed (default: champion)")
    parser.add_argument(
        "--every", type=_seconds, metavar="SECONDS", help="refresh repeatedly, at this interval (default: once)"
    )
    arguments = parser.parse_args()
    if arguments.json:
        CONSOLE.stderr = True
    with readable_errors():
        recipe = load_recipe(find_recipe(arguments.recipe), arguments.set)
        with ray_cluster(recipe, arguments.address, check=False):
            for result in _refreshes(recipe, arguments.alias, arguments.every):
                if arguments.json:
                    print(json.dumps(result.as_dict()), flush=True)
                else:
                    CONSOLE.print(str(result), soft_wrap=True)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"{text} must be above 0")
    return seconds
