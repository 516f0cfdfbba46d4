"""Cleaning: raw rows of a user's tables become typed rows, each of which is kept or rejected with a reason."""

import time
import zlib
from collections.abc import Sequence
from functools import partial, reduce

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from coldstart.config.recipe import Columns
from coldstart.data.columns import as_floats, as_ids, as_images, as_text, as_unix_seconds
from coldstart.data.content import InvalidImageError, decode_image
from coldstart.data.features import FeatureColumn
from coldstart.data.image_files import ImageFiles
from coldstart.data.readers import RawBatch
from coldstart.data.schema import ORACLE

MALFORMED = "line has a wrong number of cells"
NO_ITEM_ID = "item id is missing"
NOTHING_TO_READ = "item has neither title, text nor a readable image"
REPEATED_ITEM = "item id repeats an earlier row"
NO_USER = "user id is missing"
REPEATED_USER = "user id repeats an earlier row"
BAD_TIME = "time is missing or cannot be read"
FAR_TIME = "time lies outside 1970 to 2200; Unix seconds are expected"
FUTURE_TIME = "time lies in the future"
LOSSY_ID = "id has lost digits: a floating-point number of 2^53 or more, or scientific notation"
UNKNOWN_ITEM = "item is not in the items table or was rejected there"
BAD_LABEL = "label is not 0 or 1 (for ratings, set data.files.positive_threshold)"
NO_RATING = "label is missing or not a number"
CONFLICTING_ITEM = "item id repeats an earlier row with other content; the earlier row is used"
CONFLICTING_USER = "user id repeats an earlier row with other features; the earlier row is used"
REPEATED_EVENT = "same user, item and time as an earlier row"
MERGED_EVENT = "impression merged into the click of the same user, item and second"

_KEY_LENGTH = 200
_DAY = 86_400
_EXACT_FLOATS = 2.0**53
_SCIENTIFIC = r"^\s*-?\d(\.\d+)?[eE]\+\d+\s*$"


def clean_items(
    batch: RawBatch,
    columns: Columns,
    files: ImageFiles,
    *,
    max_bytes: int,
    max_pixels: int,
    features: Sequence[FeatureColumn] = (),
) -> pa.Table:
    """Converts items to typed columns, reads the images that they name, and decodes all images as a check.

    A row with an invalid image is reported; it is kept without the image if it has a title or a text.

    Args:
        batch: Raw rows with the user's column names.
        columns: The recipe's column map.
        files: Reads the images that rows name.
        max_bytes: Maximum size of an encoded image.
        max_pixels: Maximum size of a decoded image.
        features: Features of items.

    Returns:
        Columns row, key, reason (null: nothing to report), value (the name of the image that the reason is about),
        item_id (null: rejected), title, text, image, created_at (null: unknown), and the features by key.
    """
    raw, count = batch.table, batch.table.num_rows
    item_id = as_ids(raw[columns.item_id])
    title = as_text(raw[columns.title]) if columns.title else pa.nulls(count, pa.string())
    text = _fold_tags(raw, columns)
    named = as_images(raw[columns.image]) if columns.image else pa.nulls(count, as_images(pa.nulls(0)).type)
    path = pc.struct_field(named, "path")
    images, problems = _try_images(_read_images(named, files, max_bytes), max_bytes, max_pixels)

    has_text = np.asarray(pc.or_(title.is_valid(), text.is_valid()))
    has_image = np.array([image is not None for image in images], bool)
    broken = np.array([problem is not None for problem in problems], bool)
    no_id = np.asarray(item_id.is_null())
    empty = ~has_text & ~has_image
    notes = np.array([problem and f"{problem}; the item is kept without its image" for problem in problems], object)
    reason = _first_reason(count, {NO_ITEM_ID: no_id, NOTHING_TO_READ: empty & ~broken})
    reason = np.where(broken & ~no_id, np.where(empty, np.array(problems, object), notes), reason)
    table = pa.table(
        {
            "row": _row_numbers(batch),
            "key": item_id,
            "reason": pa.array(reason, pa.string()),
            "value": pc.if_else(pa.array(broken), path, None).cast(pa.string()),
            "item_id": pc.if_else(pa.array(no_id | empty), None, item_id),
            "title": title,
            "text": text,
            "image": pa.array(images, pa.large_binary()),
            "created_at": _created_at(raw, columns),
            **{feature.key: feature.typed(raw) for feature in features},
        }
    )
    return pa.concat_tables([table, _malformed(batch, table.schema)])


def _created_at(raw: pa.Table, columns: Columns) -> pa.Array:
    """Unix seconds; null where a time is missing, unreadable or outside 1970 to 2200."""
    if columns.created_at is None:
        return pa.nulls(len(raw), pa.int64())
    seconds, wrong = as_unix_seconds(raw[columns.created_at])
    return pa.array(np.where(wrong, np.nan, seconds), from_pandas=True).cast(pa.int64())


def clean_users(batch: RawBatch, columns: Columns, features: Sequence[FeatureColumn]) -> pa.Table:
    """Converts users to columns row, key, reason (null if kept), user_id, and the features by key."""
    user_id = as_ids(batch.table[columns.user_id])
    table = pa.table(
        {
            "row": _row_numbers(batch),
            "key": user_id,
            "reason": pc.if_else(user_id.is_null(), NO_USER, None).cast(pa.string()),
            "user_id": user_id,
            **{feature.key: feature.typed(batch.table) for feature in features},
        }
    )
    return pa.concat_tables([table, _malformed(batch, table.schema)])


def with_digests(rows: pa.Table) -> pa.Table:
    """Appends `digest`: equal for cleaned rows whose values are equal, whatever their row number and reason."""
    values = rows.drop_columns([name for name in ("row", "reason", "value", "image") if name in rows.column_names])
    digests = pd.util.hash_pandas_object(values.to_pandas(), index=False).to_numpy()
    if "image" in rows.column_names:
        digests = digests ^ np.array([zlib.crc32(image or b"") for image in rows["image"].to_pylist()], np.uint64)
    return rows.append_column("digest", pa.array(digests, pa.uint64()))


def clean_events(
    batch: RawBatch,
    columns: Columns,
    known_items: pa.Array,
    *,
    positive_threshold: float | None,
    oracle: bool,
    features: Sequence[FeatureColumn] = (),
    latest: float | None = None,
) -> pa.Table:
    """Converts events to typed columns and looks up their items.

    Args:
        batch: Raw rows with the user's column names.
        columns: The recipe's column map.
        known_items: item_id of every item, in order of index from 1.
        positive_threshold: If set, the label is 1 where the label column is at least this number.
        oracle: Whether the table has the ORACLE columns.
        features: Features of contexts.
        latest: Unix seconds; later events are rejected. None: a day from now.

    Returns:
        Columns row, key, reason (null if kept), value (raw value that the reason is about), user_id, item_idx,
        timestamp, label, the ORACLE columns if any, and the features by key.
    """
    raw = batch.table
    user_id, item_id = as_ids(raw[columns.user_id]), as_ids(raw[columns.item_id])
    index = pc.index_in(item_id, value_set=known_items)
    timestamp, late = as_unix_seconds(raw[columns.timestamp])
    label, bad_label, no_number = _labels(raw, columns.label, positive_threshold)
    lost_user, lost_item = _lossy_ids(raw[columns.user_id]), _lossy_ids(raw[columns.item_id])
    future = ~late & (timestamp > (time.time() + _DAY if latest is None else latest))
    checks = {
        NO_USER: np.asarray(user_id.is_null()),
        NO_ITEM_ID: np.asarray(item_id.is_null()),
        LOSSY_ID: lost_user | lost_item,
        UNKNOWN_ITEM: np.asarray(index.is_null()),
        BAD_TIME: np.isnan(timestamp),
        FAR_TIME: late,
        FUTURE_TIME: future,
        BAD_LABEL: bad_label,
        NO_RATING: no_number,
    }
    reason = _first_reason(raw.num_rows, checks)
    rejected = np.logical_or.reduce(list(checks.values()))
    key = pc.binary_join_element_wise(pc.fill_null(user_id, ""), pc.fill_null(item_id, ""), " ")
    table = {
        "row": _row_numbers(batch),
        "key": pc.if_else(pa.array(rejected), key, None),
        "reason": pa.array(reason, pa.string()),
        "value": _reason_values(raw, columns, reason, lost_user),
        "user_id": user_id,
        "item_idx": pc.add(pc.fill_null(index, -1), 1),
        "timestamp": pa.array(np.where(rejected, 0, timestamp).astype(np.int64)),
        "label": pa.array(np.where(rejected, 0, label).astype(np.int8)),
    }
    for name in ORACLE if oracle else ():
        table[name] = raw[name].combine_chunks().cast(pa.float32())
    kept = pa.table(table | {feature.key: feature.typed(raw) for feature in features})
    return pa.concat_tables([kept, _malformed(batch, kept.schema)])


def _labels(
    raw: pa.Table, column: str | None, positive_threshold: float | None
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Labels 0 and 1, and the masks of those that are neither and of the ratings that are no number.

    Without a column, every row is a click.
    """
    if column is None:
        return np.ones(raw.num_rows), np.zeros(raw.num_rows, bool), np.zeros(raw.num_rows, bool)
    label = as_floats(raw[column])
    if positive_threshold is None:
        return label, ~np.isin(label, (0, 1)), np.zeros(len(label), bool)
    return (label >= positive_threshold).astype(float), np.zeros(len(label), bool), np.isnan(label)


def _lossy_ids(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Mask of the ids that cannot be exact any more: other ids have become the same number."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_floating(kind):
        lossy: NDArray[np.bool_] = np.abs(column.cast(kind).to_numpy().astype(np.float64)) >= _EXACT_FLOATS
        return lossy
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        # With the plus sign, as spreadsheets and pandas write it: 12e5 is part of many hexadecimal ids.
        text = column.cast(kind)
        signs = pc.match_substring(text, "+")  # far faster than the expression, which few columns need
        if pc.any(signs).as_py():
            return np.asarray(pc.fill_null(pc.match_substring_regex(text, _SCIENTIFIC), False))
    return np.zeros(len(column), bool)


def _reason_values(
    raw: pa.Table, columns: Columns, reason: NDArray[np.object_], lost_user: NDArray[np.bool_]
) -> pa.Array:
    """The raw value that the reason of each event is about; null for kept events and missing values."""
    about = dict.fromkeys((BAD_TIME, FAR_TIME, FUTURE_TIME), columns.timestamp)
    about[UNKNOWN_ITEM] = columns.item_id
    if columns.label is not None:
        about |= dict.fromkeys((BAD_LABEL, NO_RATING), columns.label)
    values = np.full(len(reason), None, object)
    for row in np.flatnonzero(reason != None):  # noqa: E711 - element by element
        name = (
            columns.user_id if reason[row] == LOSSY_ID and lost_user[row] else about.get(reason[row], columns.item_id)
        )
        cell = raw[name][int(row)].as_py()
        values[row] = None if cell is None else str(cell)
    return pa.array(values, pa.string())


def _first_reason(count: int, checks: dict[str, NDArray[np.bool_]]) -> NDArray[np.object_]:
    """[count] the first reason whose mask is True, or None."""
    reason = np.full(count, None, object)
    for text, mask in reversed(checks.items()):
        reason[mask] = text
    return reason


def _row_numbers(batch: RawBatch) -> pa.Array:
    return pa.array(np.arange(batch.first_row, batch.first_row + batch.table.num_rows))


def _malformed(batch: RawBatch, schema: pa.Schema) -> pa.Table:
    """Rejected rows for malformed lines."""
    first = batch.first_row + batch.table.num_rows
    count = len(batch.malformed)
    known = {
        "row": pa.array(np.arange(first, first + count)),
        "key": pa.array([line[:_KEY_LENGTH] for line in batch.malformed], pa.string()),
        "reason": pa.array([MALFORMED] * count, pa.string()),
    }
    return pa.table([known.get(field.name, pa.nulls(count, field.type)) for field in schema], schema=schema)


def _fold_tags(raw: pa.Table, columns: Columns) -> pa.Array:
    """The text, preceded by the tags as "name: value; name: value": at the start they survive truncation."""
    parts = []
    for tag in columns.tags:
        value = pc.replace_substring_regex(as_text(raw[tag]), pattern=r"\s*\|\s*", replacement=", ")
        parts.append(pc.binary_join_element_wise(tag.replace("_", " "), value, ": "))
    text = as_text(raw[columns.text]) if columns.text else pa.nulls(raw.num_rows, pa.string())
    if not parts:
        return text
    return _join(reduce(partial(_join, between="; "), parts), text, between=". ")


def _join(left: pa.Array, right: pa.Array, between: str) -> pa.Array:
    """Joins two columns; where one is null, the other. Arrow's join that skips nulls drops rows that are all null."""
    both = pc.binary_join_element_wise(left, right, between)
    return pc.coalesce(both, left, right)


def _read_images(named: pa.StructArray, files: ImageFiles, max_bytes: int) -> list[bytes | str | None]:
    """Encoded images; of one that a row names and that cannot be read, the reason."""
    encoded: list[bytes | str | None] = pc.struct_field(named, "bytes").to_pylist()
    path = pc.struct_field(named, "path")
    rows = np.flatnonzero(path.is_valid())
    for row, data in zip(rows, files.read(path.take(pa.array(rows)).to_pylist(), max_bytes), strict=True):
        encoded[row] = data
    return encoded


def _try_images(
    encoded: list[bytes | str | None], max_bytes: int, max_pixels: int
) -> tuple[list[bytes | None], list[str | None]]:
    """The images that can be decoded (None otherwise), and the problems of the others."""
    images: list[bytes | None] = []
    problems: list[str | None] = []
    for data in encoded:
        problem = data if isinstance(data, str) else None
        if data and not isinstance(data, str):
            try:
                decode_image(data, max_bytes=max_bytes, max_pixels=max_pixels)
            except InvalidImageError as error:
                problem = str(error)
        images.append(data if data and not isinstance(data, str) and problem is None else None)
        problems.append(problem)
    return images, problems
