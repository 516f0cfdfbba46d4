"""From rows as a user wrote them to typed rows, each either kept or rejected with a reason."""

from collections.abc import Sequence
from functools import partial, reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from coldstart.config.recipe import Columns
from coldstart.data.columns import numbers, texts, unix_seconds, words
from coldstart.data.content import BadPicture, decode_picture
from coldstart.data.contract import ORACLE
from coldstart.data.features import FeatureColumn
from coldstart.data.readers import Chunk

MALFORMED = "line has a wrong number of cells"
NO_ITEM_ID = "item id is missing"
NOTHING_TO_READ = "item has neither title, text nor a readable picture"
REPEATED_ITEM = "item id repeats an earlier row"
NO_USER = "user id is missing"
REPEATED_USER = "user id repeats an earlier row"
BAD_TIME = "time is missing or cannot be read"
FAR_TIME = "time lies outside 1970 to 2200; Unix seconds are expected"
UNKNOWN_ITEM = "item is not in the items table or was rejected there"
BAD_LABEL = "label is not 0 or 1 (for ratings, set data.files.label_at_least)"
NO_RATING = "label is missing or not a number"
REPEATED_EVENT = "same user, item and time as an earlier row"

_KEY_LENGTH = 200


def clean_items(
    chunk: Chunk, columns: Columns, *, max_bytes: int, max_pixels: int, features: Sequence[FeatureColumn] = ()
) -> pa.Table:
    """Types items and tries their pictures.

    A row with a picture that cannot be used is reported, and kept without the picture if it has a title or a text.

    Args:
        chunk: Raw rows with the user's column names.
        columns: The recipe's column map.
        max_bytes: Largest encoded picture.
        max_pixels: Largest decoded picture.
        features: Of items.

    Returns:
        row, key, reason (null: nothing to report), item_id (null: the row is rejected), title, text, picture,
        created_at (null: not known), and the features by key.
    """
    raw, count = chunk.table, chunk.table.num_rows
    item_id = texts(raw[columns.item_id])
    title = words(raw[columns.title]) if columns.title else pa.nulls(count, pa.string())
    text = _fold_tags(raw, columns)
    given = raw[columns.picture].to_pylist() if columns.picture else [None] * count
    pictures, faults = _try_pictures(given, max_bytes, max_pixels)

    has_words = np.asarray(pc.or_(title.is_valid(), text.is_valid()))
    has_picture = np.array([picture is not None for picture in pictures], bool)
    broken = np.array([fault is not None for fault in faults], bool)
    no_id = np.asarray(item_id.is_null())
    silent = ~has_words & ~has_picture
    notes = np.array([fault and f"{fault}; the item is kept without its picture" for fault in faults], object)
    reason = _first_reason(count, {NO_ITEM_ID: no_id, NOTHING_TO_READ: silent & ~broken})
    reason = np.where(broken & ~no_id, np.where(silent, np.array(faults, object), notes), reason)
    table = pa.table(
        {
            "row": _numbers(chunk),
            "key": item_id,
            "reason": pa.array(reason, pa.string()),
            "item_id": pc.if_else(pa.array(no_id | silent), None, item_id),
            "title": title,
            "text": text,
            "picture": pa.array(pictures, pa.large_binary()),
            "created_at": _created_at(raw, columns),
            **{feature.key: feature.typed(raw) for feature in features},
        }
    )
    return pa.concat_tables([table, _malformed(chunk, table.schema)])


def _created_at(raw: pa.Table, columns: Columns) -> pa.Array:
    """Unix seconds, null where a moment is missing, unreadable or out of this world."""
    if columns.created_at is None:
        return pa.nulls(len(raw), pa.int64())
    seconds, wrong = unix_seconds(raw[columns.created_at])
    return pa.array(np.where(wrong, np.nan, seconds), from_pandas=True).cast(pa.int64())


def clean_users(chunk: Chunk, columns: Columns, features: Sequence[FeatureColumn]) -> pa.Table:
    """Types users: row, key, reason (null if kept), user_id, and the features by key."""
    user_id = texts(chunk.table[columns.user_id])
    table = pa.table(
        {
            "row": _numbers(chunk),
            "key": user_id,
            "reason": pc.if_else(user_id.is_null(), NO_USER, None).cast(pa.string()),
            "user_id": user_id,
            **{feature.key: feature.typed(chunk.table) for feature in features},
        }
    )
    return pa.concat_tables([table, _malformed(chunk, table.schema)])


def clean_events(
    chunk: Chunk,
    columns: Columns,
    known_items: pa.Array,
    *,
    label_at_least: float | None,
    oracle: bool,
    features: Sequence[FeatureColumn] = (),
) -> pa.Table:
    """Types events and finds their items.

    Args:
        chunk: Raw rows with the user's column names.
        columns: The recipe's column map.
        known_items: item_id of every item, in order of index from 1.
        label_at_least: If set, the label is whether the column reaches this.
        oracle: Whether the ORACLE columns are there.
        features: Of contexts.

    Returns:
        row, key, reason (null if kept), user_id, item_idx, timestamp, label, the ORACLE columns if there, and the
        features by key.
    """
    raw = chunk.table
    user_id, item_id = texts(raw[columns.user_id]), texts(raw[columns.item_id])
    index = pc.index_in(item_id, value_set=known_items)
    timestamp, late = unix_seconds(raw[columns.timestamp])
    label = numbers(raw[columns.label])
    if label_at_least is not None:
        bad_label, no_number = np.zeros(len(label), bool), np.isnan(label)
        label = (label >= label_at_least).astype(float)
    else:
        bad_label, no_number = ~np.isin(label, (0, 1)), np.zeros(len(label), bool)
    checks = {
        NO_USER: np.asarray(user_id.is_null()),
        NO_ITEM_ID: np.asarray(item_id.is_null()),
        UNKNOWN_ITEM: np.asarray(index.is_null()),
        BAD_TIME: np.isnan(timestamp),
        FAR_TIME: late,
        BAD_LABEL: bad_label,
        NO_RATING: no_number,
    }
    reason = _first_reason(raw.num_rows, checks)
    rejected = np.logical_or.reduce(list(checks.values()))
    key = pc.binary_join_element_wise(pc.fill_null(user_id, ""), pc.fill_null(item_id, ""), " ")
    table = {
        "row": _numbers(chunk),
        "key": pc.if_else(pa.array(rejected), key, None),
        "reason": pa.array(reason, pa.string()),
        "user_id": user_id,
        "item_idx": pc.add(pc.fill_null(index, -1), 1),
        "timestamp": pa.array(np.where(rejected, 0, timestamp).astype(np.int64)),
        "label": pa.array(np.where(rejected, 0, label).astype(np.int8)),
    }
    for name in ORACLE if oracle else ():
        table[name] = raw[name].combine_chunks().cast(pa.float32())
    table |= {feature.key: feature.typed(raw) for feature in features}
    kept = pa.table(table)
    return pa.concat_tables([kept, _malformed(chunk, kept.schema)])


def _first_reason(count: int, checks: dict[str, NDArray[np.bool_]]) -> NDArray[np.object_]:
    """[count] the first reason whose mask holds, or None."""
    reason = np.full(count, None, object)
    for text, mask in reversed(checks.items()):
        reason[mask] = text
    return reason


def _numbers(chunk: Chunk) -> pa.Array:
    return pa.array(np.arange(chunk.first_row, chunk.first_row + chunk.table.num_rows))


def _malformed(chunk: Chunk, schema: pa.Schema) -> pa.Table:
    """Rejected rows for lines that are no rows."""
    first = chunk.first_row + chunk.table.num_rows
    count = len(chunk.malformed)
    known = {
        "row": pa.array(np.arange(first, first + count)),
        "key": pa.array([line[:_KEY_LENGTH] for line in chunk.malformed], pa.string()),
        "reason": pa.array([MALFORMED] * count, pa.string()),
    }
    return pa.table([known.get(field.name, pa.nulls(count, field.type)) for field in schema], schema=schema)


def _fold_tags(raw: pa.Table, columns: Columns) -> pa.Array:
    """The text with "name: value; name: value" of the tags before it, where they survive truncation."""
    parts = []
    for tag in columns.tags:
        value = pc.replace_substring_regex(words(raw[tag]), pattern=r"\s*\|\s*", replacement=", ")
        parts.append(pc.binary_join_element_wise(tag.replace("_", " "), value, ": "))
    text = words(raw[columns.text]) if columns.text else pa.nulls(raw.num_rows, pa.string())
    if not parts:
        return text
    return _joined(reduce(partial(_joined, between="; "), parts), text, between=". ")


def _joined(left: pa.Array, right: pa.Array, between: str) -> pa.Array:
    """Both, or the one that is there. Arrow's own join that skips nulls returns too few rows where all are null."""
    both = pc.binary_join_element_wise(left, right, between)
    return pc.coalesce(both, left, right)


def _try_pictures(
    given: list[bytes | None], max_bytes: int, max_pixels: int
) -> tuple[list[bytes | None], list[str | None]]:
    """Pictures that can be decoded (None otherwise), and what is wrong with the others."""
    pictures: list[bytes | None] = []
    faults: list[str | None] = []
    for data in given:
        fault = None
        if data:
            try:
                decode_picture(data, max_bytes=max_bytes, max_pixels=max_pixels)
            except BadPicture as error:
                fault = str(error)
        pictures.append(data if data and fault is None else None)
        faults.append(fault)
    return pictures, faults
