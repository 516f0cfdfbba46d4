"""Which rows of the user's catalogue show something that neither the release nor its store knows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from numpy.typing import NDArray

from coldstart.config import Recipe, UserError
from coldstart.config.recipe import Files
from coldstart.data.cleaning import clean_items
from coldstart.data.columns import unix_seconds
from coldstart.data.content import Content
from coldstart.data.dataset import read_features
from coldstart.data.features import Coded, FeatureColumn, FeatureSchema, Value
from coldstart.data.readers import Chunk, Piece, SourceTable, check_files, pieces, wanted_columns
from coldstart.encoders.proxies import content_digests
from coldstart.rankers.storage import read_item_features, vocabulary
from coldstart.registry import Release
from coldstart.serving.publications import Standing, digest_of
from workloads.prepare import generated_files, map_pieces, whole


@dataclass(frozen=True)
class Source:
    """The items table of a recipe.

    Attributes:
        files: Where it lies and what its columns are called.
        table: Its files.
        pieces: What single tasks read.
        stamps: File -> size and time of its last change, ns.
        features: Of items, as the recipe declares them.
    """

    files: Files
    table: SourceTable
    pieces: tuple[Piece, ...]
    stamps: dict[str, list[int]]
    features: tuple[FeatureColumn, ...]

    @classmethod
    def of(cls, recipe: Recipe) -> "Source":
        """Finds the table.

        Raises:
            UserError: it or a column is missing.
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
        features = tuple(one for one in tables.features(files.columns) if one.owner == "item")
        stamps = {name: [found.st_size, found.st_mtime_ns] for name, found in stats.items()}
        return cls(files, tables.items, tuple(pieces(tables.items)), stamps, features)

    def changed_at(self, row: int) -> float:
        """Unix seconds of the last change of the file that holds a row."""
        piece = next(piece for piece in reversed(self.pieces) if piece.first_row <= row)
        return self.stamps[piece.path][1] / 1e9


@dataclass(frozen=True)
class Rows:
    """Rows of the table, typed.

    Attributes:
        recipe: For limits and names.
        source: The table.
        since: Unix seconds; rows that say that they are older are left out.
    """

    recipe: Recipe
    source: Source
    since: float = -np.inf

    def typed(self, chunk: Chunk, wanted: NDArray[np.int64] | None = None) -> pa.Table:
        """Typed rows: `row`, `item_id` (null: rejected), title, text, picture, `changed_at` (NaN: not known), features.

        Args:
            chunk: As it was read.
            wanted: Rows by number; None for all that are not too old.
        """
        columns, data = self.source.files.columns, self.recipe.data
        row = chunk.first_row + np.arange(chunk.table.num_rows)
        changed_at = self._changed_at(chunk.table)
        kept = ~(changed_at <= self.since) if wanted is None else np.isin(row, wanted)
        limits = {"max_bytes": data.max_picture_bytes, "max_pixels": data.max_picture_pixels}
        picked = Chunk(0, chunk.table.filter(pa.array(kept)))
        table = clean_items(picked, columns, features=self.source.features, **limits)
        table = table.set_column(0, "row", pa.array(row[kept])).drop_columns(["key", "reason", "created_at"])
        return table.append_column("changed_at", pa.array(changed_at[kept]))

    def map(self, read: list[Piece], clean: Callable[[Chunk], pa.Table]) -> "ray.data.Dataset":
        """Runs `clean` over the chunks of pieces, in Ray Data tasks."""
        names = [column for _, column in wanted_columns(self.source.files.columns, "items")]
        if self.recipe.refresh.updated_at is not None:
            names.append(self.recipe.refresh.updated_at)
        return map_pieces(self.source.table, names, clean, read)

    def raw_features(self, row: Mapping[str, Any]) -> dict[str, Value] | None:
        """Features of a typed row by name; None if the recipe declares none."""
        if not self.source.features:
            return None
        given = {feature.name: row[feature.key] for feature in self.source.features}
        return {name: value for name, value in given.items() if value is not None and value == value}

    def _changed_at(self, table: pa.Table) -> NDArray[np.float64]:
        column = self.recipe.refresh.updated_at or self.source.files.columns.created_at
        if column is None:
            return np.full(len(table), np.nan)
        seconds, wrong = unix_seconds(table[column])
        # A date of publication says nothing of later changes, so no row is too old by it.
        known: NDArray[np.float64] = np.where(wrong, np.nan, seconds)
        return known


@dataclass(frozen=True)
class Known:
    """What a release and its store know of items.

    Attributes:
        listed: [N] ids of the release's catalogue.
        shown: [N] digests of the contents it was trained with; None if it does not tell.
        schema: Item features that the ranker reads.
        coded: [N + 1] those of the catalogue.
        published: [P] ids of items that were published or withdrawn.
        digests: [P] of what was published.
        until: [P] Unix seconds up to which a row gives way to what was done by hand.
    """

    listed: pa.Array
    shown: pa.Array | None
    schema: FeatureSchema
    coded: Coded
    published: pa.Array
    digests: pa.Array
    until: NDArray[np.float64]

    @classmethod
    def of(cls, release: Release, standing: Mapping[str, Standing]) -> "Known":
        """Reads what the release tells, beside what its store does."""
        schema = read_features(release.ranker.path)
        shown = content_digests(release.proxies.path)
        known = [one if one.current or one.withdrawn else None for one in standing.values()]
        until = [
            -np.inf if one is None or one.origin == "catalogue" else np.inf if one.withdrawn else one.published_at
            for one in known
        ]
        return cls(
            pa.array(list(vocabulary(release.ranker.path)), pa.string()),
            None if shown is None else shown.combine_chunks(),
            schema.of("item"),
            read_item_features(release.ranker.path, schema),
            pa.array(list(standing), pa.string()),
            pa.array([None if one is None else one.digest for one in known], pa.string()),
            np.array(until),
        )

    def news(self, rows: pa.Table, raw: Callable[[Mapping[str, Any]], dict[str, Value] | None]) -> NDArray[np.bool_]:
        """[n] which typed rows show something else than what is known.

        Args:
            rows: With ids.
            raw: Features of a row.
        """
        contents = [Content(*shown) for shown in zip(*(rows[name].to_pylist() for name in _SHOWN), strict=True)]
        features = [raw(row) for row in rows.select([one for one in rows.column_names if "." in one]).to_pylist()]
        ids = rows["item_id"].combine_chunks()
        there = pc.index_in(ids, value_set=self.listed)
        listed = np.asarray(there.is_valid())
        place = np.asarray(pc.fill_null(there, 0)).astype(np.int64)
        news = ~listed
        if self.shown is not None:
            shown = pa.array([content.digest for content in contents])
            news |= np.asarray(pc.not_equal(shown, self.shown.take(pa.array(place))))
        news |= ~self._same_features(rows, place + 1)
        at = pc.index_in(ids, value_set=self.published)
        for row in np.flatnonzero(at.is_valid()):
            known = at[row].as_py()
            told = self.digests[known].as_py()
            late = rows["changed_at"][row].as_py() > self.until[known]
            news[row] = (late or self.until[known] == -np.inf) and digest_of(contents[row], features[row]) != told
        return news

    def _same_features(self, rows: pa.Table, index: NDArray[np.int64]) -> NDArray[np.bool_]:
        if not self.schema:
            return np.ones(len(rows), bool)
        columns = {one.key: rows[one.key].combine_chunks() for one in self.schema.features}
        now = self.schema.stack(self.schema.encode(columns), len(rows))
        same: NDArray[np.bool_] = (now.categorical == self.coded.categorical[index]).all(1)
        return same & np.isclose(now.numeric, self.coded.numeric[index], atol=1e-6).all(1)


_SHOWN = ("title", "text", "picture")
_LOOKED = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("item_id", pa.string()),
        pa.field("changed_at", pa.float64()),
        pa.field("news", pa.bool_(), nullable=False),
    ]
)
"""What looking at a row returns; without an id, it is no item."""


@dataclass(frozen=True)
class News:
    """What a look at the catalogue found.

    Attributes:
        row: [n] numbers of the rows that are news; of an id that repeats, the first.
        rows: How many were looked at.
        rejected: How many of them are no items.
        newest: Unix seconds of the latest change that a row tells; -inf if none does.
    """

    row: NDArray[np.int64]
    rows: int = 0
    rejected: int = 0
    newest: float = -np.inf


def find_news(rows: Rows, read: list[Piece], known: Known) -> News:
    """Looks at pieces of the table; contents stay where they were read."""
    if not read:
        return News(np.zeros(0, np.int64))
    shared = ray.put(known)

    def look(chunk: Chunk) -> pa.Table:
        table = rows.typed(chunk)
        there = table["item_id"].is_valid()
        news = np.zeros(len(table), bool)
        if pc.any(there).as_py():
            news[np.asarray(there)] = ray.get(shared).news(table.filter(there), rows.raw_features)
        columns = [table["row"], table["item_id"], table["changed_at"], pa.array(news)]
        looked = pa.table(columns, schema=_LOOKED)
        lines = [{"row": -1, "news": False}] * len(chunk.malformed)
        return pa.concat_tables([looked, pa.Table.from_pylist(lines, schema=_LOOKED)])

    looked = whole(rows.map(read, look))
    # Of an id that repeats, the first row counts, as in the dataset.
    first = looked.filter(looked["item_id"].is_valid()).group_by("item_id").aggregate([("row", "min")])["row_min"]
    news = np.asarray(looked.filter(looked["news"])["row"])
    return News(
        np.sort(news[np.isin(news, np.asarray(first))]),
        len(looked),
        looked["item_id"].null_count,
        float(np.nanmax(np.asarray(looked["changed_at"], float), initial=-np.inf)),
    )
