"""Differences between the user's catalog and what a release and its store know: new and changed items."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
from numpy.typing import NDArray

from coldstart.config import Recipe, UserError
from coldstart.config.recipe import Files
from coldstart.data.cleaning import clean_items
from coldstart.data.columns import as_unix_seconds
from coldstart.data.content import Content
from coldstart.data.dataset import read_features
from coldstart.data.features import EncodedFeatures, FeatureColumn, FeatureSchema, Value, features_of
from coldstart.data.image_files import ImageFiles
from coldstart.data.readers import FileSplit, RawBatch, SourceTable, check_files, file_splits
from coldstart.jobs.stages.prepare import generated_files
from coldstart.jobs.stages.ray_tables import map_file_splits, to_table
from coldstart.methods.available import find_method
from coldstart.rankers.storage import read_item_features, read_item_index
from coldstart.registry import Release
from coldstart.serving.store.publication_log import PublicationState, item_digest


@dataclass(frozen=True)
class CatalogTable:
    """The items table of a recipe.

    Attributes:
        files: Paths and column names.
        table: Its files.
        file_splits: The units that single tasks read.
        stamps: File -> size and modification time, ns.
        features: Declared features of items.
    """

    files: Files
    table: SourceTable
    file_splits: tuple[FileSplit, ...]
    stamps: dict[str, list[int]]
    features: tuple[FeatureColumn, ...]

    @classmethod
    def of(cls, recipe: Recipe) -> "CatalogTable":
        """Finds the table.

        Raises:
            UserError: the table or a column is missing.
        """
        generated = recipe.data.source == "generated"
        files = generated_files(recipe, recipe.run_dir.absolute() / "source") if generated else recipe.data.files
        tables = check_files(files)
        column = recipe.refresh.updated_at
        if column is not None and column not in tables.items.types:
            raise UserError(
                f"refresh.updated_at: the items table has no column '{column}'; its columns are "
                f"{', '.join(sorted(tables.items.types))}"
            )
        stats = {str(file): file.stat() for file in tables.items.files}
        features = tuple(features_of(tables.features(files.columns), "item"))
        stamps = {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}
        return cls(files, tables.items, tuple(file_splits(tables.items)), stamps, features)

    def modified_at(self, row: int) -> float:
        """Modification time, in Unix seconds, of the file that contains a row."""
        file_split = next(file_split for file_split in reversed(self.file_splits) if file_split.first_row <= row)
        return self.stamps[file_split.path][1] / 1e9


@dataclass(frozen=True)
class CatalogRows:
    """Reads rows of the items table with typed columns.

    Attributes:
        recipe: Says the limits and the column names.
        source: The table.
        since: Unix seconds; rows with an earlier update time are skipped.
    """

    recipe: Recipe
    source: CatalogTable
    since: float = -np.inf

    def typed(self, batch: RawBatch, wanted: NDArray[np.int64] | None = None) -> pa.Table:
        """Typed rows: `row`, `item_id` (null: rejected), title, text, image, features.

        Further columns are `changed_at` (NaN: unknown) and `unread` (the row names an image that cannot be read).

        Args:
            batch: Raw rows.
            wanted: Numbers of the rows to return; None for all rows that are not older than `since`.
        """
        columns, data = self.source.files.columns, self.recipe.data
        row = batch.first_row + np.arange(batch.table.num_rows)
        changed_at = self._changed_at(batch.table)
        kept = ~(changed_at <= self.since) if wanted is None else np.isin(row, wanted)
        limits = {"max_bytes": data.max_image_bytes, "max_pixels": data.max_image_pixels}
        selected = RawBatch(0, batch.table.filter(pa.array(kept)))
        images = ImageFiles.of(self.source.files)
        table = clean_items(selected, columns, images, features=self.source.features, **limits)
        table = table.append_column("unread", table["value"].is_valid())
        table = table.set_column(0, "row", pa.array(row[kept])).drop_columns(["key", "reason", "value", "created_at"])
        return table.append_column("changed_at", pa.array(changed_at[kept]))

    def map(self, splits: list[FileSplit], clean: Callable[[RawBatch], pa.Table]) -> "ray.data.Dataset":
        """Runs `clean` on the batches of file splits, in Ray Data tasks."""
        names, updated_at = self.source.table.columns, self.recipe.refresh.updated_at
        if updated_at is not None and updated_at not in names:
            names.append(updated_at)
        return map_file_splits(self.source.table, names, clean, splits)

    def raw_features(self, row: Mapping[str, Any]) -> dict[str, Value] | None:
        """Features of a typed row by name; None if the recipe declares none."""
        if not self.source.features:
            return None
        values = {feature.name: row[feature.key] for feature in self.source.features}
        return {name: value for name, value in values.items() if value is not None and value == value}

    def _changed_at(self, table: pa.Table) -> NDArray[np.float64]:
        column = self.recipe.refresh.updated_at or self.source.files.columns.created_at
        if column is None:
            return np.full(len(table), np.nan)
        seconds, invalid = as_unix_seconds(table[column])
        # `created_at` does not reveal later changes; `since` is -inf then, so no row is skipped because of it.
        changed_at: NDArray[np.float64] = np.where(invalid, np.nan, seconds)
        return changed_at


@dataclass(frozen=True)
class KnownItems:
    """The items that a release and its store know.

    Attributes:
        catalog_ids: [N] ids of the release's catalog.
        catalog_digests: [N] digests of the contents that the release was trained with; None if it has none.
        schema: Item features that the scorer reads.
        catalog_features: [N + 1] encoded features of the catalog.
        published_ids: [P] ids of items that were published or withdrawn.
        published_digests: [P] digests of what was published.
        manual_until: [P] Unix seconds; a row of the catalog is ignored if it is not newer than this publication or
            withdrawal over the API. -inf if the catalog published the item, inf if the API withdrew it.
    """

    catalog_ids: pa.Array
    catalog_digests: pa.Array | None
    schema: FeatureSchema
    catalog_features: EncodedFeatures
    published_ids: pa.Array
    published_digests: pa.Array
    manual_until: NDArray[np.float64]

    @classmethod
    def of(cls, release: Release, states: Mapping[str, PublicationState]) -> "KnownItems":
        """Reads the catalog of a release, and combines it with the publication states of its store."""
        catalog = find_method(release.method).catalog_dir(release.paths)
        schema, digests = read_features(catalog), release.items.path / "digests.parquet"
        current = [state if state.current or state.withdrawn else None for state in states.values()]
        manual_until = [
            -np.inf if state is None or state.origin == "catalog" else np.inf if state.withdrawn else state.published_at
            for state in current
        ]
        return cls(
            pa.array(list(read_item_index(catalog)), pa.string()),
            pq.read_table(digests)["digest"].combine_chunks() if digests.is_file() else None,
            schema.of("item"),
            read_item_features(catalog, schema),
            pa.array(list(states), pa.string()),
            pa.array([None if state is None else state.digest for state in current], pa.string()),
            np.array(manual_until),
        )

    def contains(self, ids: pa.ChunkedArray) -> pa.ChunkedArray:
        """Whether each item is in the catalog of the release, or is published."""
        published = self.published_ids.filter(self.published_digests.is_valid())
        return pc.or_(pc.is_in(ids, value_set=self.catalog_ids), pc.is_in(ids, value_set=published))

    def is_changed(
        self, rows: pa.Table, raw_features: Callable[[Mapping[str, Any]], dict[str, Value] | None]
    ) -> NDArray[np.bool_]:
        """[n] whether each typed row has other content or features than are known of its item.

        Args:
            rows: Typed rows with ids.
            raw_features: Returns the features of a row.
        """
        contents = [Content(*parts) for parts in zip(*(rows[name].to_pylist() for name in _CONTENT), strict=True)]
        keys = [name for name in rows.column_names if "." in name]
        features = [raw_features(row) for row in rows.select(keys).to_pylist()]
        ids = rows["item_id"].combine_chunks()
        index = pc.index_in(ids, value_set=self.catalog_ids)
        changed = ~np.asarray(index.is_valid())
        position = np.asarray(pc.fill_null(index, 0)).astype(np.int64)
        if self.catalog_digests is not None:
            digests = pa.array([content.digest for content in contents])
            changed |= np.asarray(pc.not_equal(digests, self.catalog_digests.take(pa.array(position))))
        changed |= ~self._has_same_features(rows, position + 1)
        published = pc.index_in(ids, value_set=self.published_ids)
        for row in np.flatnonzero(published.is_valid()):
            at = published[row].as_py()
            until = self.manual_until[at]
            counts = until == -np.inf or rows["changed_at"][row].as_py() > until
            changed[row] = counts and item_digest(contents[row], features[row]) != self.published_digests[at].as_py()
        return changed

    def _has_same_features(self, rows: pa.Table, index: NDArray[np.int64]) -> NDArray[np.bool_]:
        if not self.schema:
            return np.ones(len(rows), bool)
        columns = {feature.key: rows[feature.key].combine_chunks() for feature in self.schema.features}
        now = self.schema.stack(self.schema.encode(columns), len(rows))
        same: NDArray[np.bool_] = (now.categorical == self.catalog_features.categorical[index]).all(1)
        return same & np.isclose(now.numeric, self.catalog_features.numeric[index], atol=1e-6).all(1)


_CONTENT = ("title", "text", "image")
_COMPARED = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("item_id", pa.string()),
        pa.field("changed_at", pa.float64()),
        pa.field("changed", pa.bool_(), nullable=False),
    ]
)
"""The result of comparing a row; a row without an id was rejected."""


@dataclass(frozen=True)
class CatalogDiff:
    """New and changed rows of the catalog.

    Attributes:
        row: [n] numbers of the new and changed rows; of rows with the same id, only the first counts.
        rows: Number of rows that were compared.
        rejected: Number of these rows that are not valid items, or that name an image that cannot be read of an item
            that is known.
        newest: Unix seconds of the latest update time in these rows; -inf if there is none.
    """

    row: NDArray[np.int64]
    rows: int = 0
    rejected: int = 0
    newest: float = -np.inf


def diff_catalog(rows: CatalogRows, splits: list[FileSplit], known: KnownItems) -> CatalogDiff:
    """Compares the rows of file splits with the known items, in Ray Data tasks; contents stay in the tasks."""
    if not splits:
        return CatalogDiff(np.zeros(0, np.int64))
    shared = ray.put(known)

    def compare(batch: RawBatch) -> pa.Table:
        table, known_items = rows.typed(batch), ray.get(shared)
        # Of a known item, a server that does not answer must not replace the row by one without the image.
        kept = pc.invert(pc.and_(table["unread"], known_items.contains(table["item_id"])))
        table = table.set_column(
            table.column_names.index("item_id"), "item_id", pc.if_else(kept, table["item_id"], None)
        )
        valid = table["item_id"].is_valid()
        changed = np.zeros(len(table), bool)
        if pc.any(valid).as_py():
            changed[np.asarray(valid)] = known_items.is_changed(table.filter(valid), rows.raw_features)
        columns = [table["row"], table["item_id"], table["changed_at"], pa.array(changed)]
        malformed = [{"row": -1, "changed": False}] * len(batch.malformed)
        return pa.concat_tables(
            [pa.table(columns, schema=_COMPARED), pa.Table.from_pylist(malformed, schema=_COMPARED)]
        )

    compared = to_table(rows.map(splits, compare))
    # The first row of an id counts, as in the dataset.
    first = compared.filter(compared["item_id"].is_valid()).group_by("item_id").aggregate([("row", "min")])["row_min"]
    changed = np.asarray(compared.filter(compared["changed"])["row"])
    return CatalogDiff(
        np.sort(changed[np.isin(changed, np.asarray(first))]),
        len(compared),
        compared["item_id"].null_count,
        float(np.nanmax(np.asarray(compared["changed_at"], float), initial=-np.inf)),
    )
