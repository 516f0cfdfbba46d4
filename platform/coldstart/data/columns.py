"""Conversion of one column of a user's table: to ids, text, images, numbers or times."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from coldstart.data.arrow_types import Role, image_parts, is_text, is_time, joined_text, text_or_plain, trimmed

_LATEST = 7_258_118_400  # 2200-01-01
_LARGEST_ID = 2.0**63


def as_ids(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Ids and names as strings. 7, 7.0 (pandas writes an integer column with gaps so) and " 7 " are the same id."""
    array = text_or_plain(column)
    if pa.types.is_decimal(array.type):
        array = _without_zeros(array)
    elif pa.types.is_floating(array.type):
        array = _float_ids(array)
    return trimmed(array.cast(pa.string()))


def as_text(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Free text as strings; the elements of a list are joined by commas."""
    return trimmed(joined_text(column))


def as_images(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Images as a struct of `bytes` (encoded) and `path` (a name of the file), at most one of which is not null."""
    return image_parts(column)


def as_floats(column: pa.Array | pa.ChunkedArray) -> NDArray[np.float64]:
    """Numbers; NaN where a value is missing or not a number."""
    array = text_or_plain(column)
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.int8())
    if pa.types.is_decimal(array.type):
        array = array.cast(pa.float64())
    values: NDArray[np.float64] = pd.to_numeric(array.to_pandas(), errors="coerce").to_numpy(np.float64)
    return values


def as_unix_seconds(column: pa.Array | pa.ChunkedArray) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Unix seconds (NaN where unreadable), and a mask of the times outside 1970 to 2200."""
    array = text_or_plain(column)
    if is_time(array.type):
        seconds = array.cast(pa.timestamp("s"), safe=False).cast(pa.int64()).to_pandas().to_numpy(np.float64)
    else:
        seconds = np.floor(as_floats(array))
        if is_text(array.type):
            times = pd.to_datetime(array.to_pandas(), format="ISO8601", errors="coerce", utc=True)
            dated = np.isnan(seconds) & times.notna().to_numpy()
            seconds[dated] = times.to_numpy("datetime64[s]").astype(np.int64)[dated]
    return seconds, (seconds <= 0) | (seconds >= _LATEST)


CONVERSIONS: dict[Role, Callable[[pa.Array | pa.ChunkedArray], object]] = {
    "id": as_ids,
    "text": as_text,
    "image": as_images,
    "time": as_unix_seconds,
    "label": as_floats,
    "feature": as_ids,
}
"""Role -> the function that reads a column of that role."""


def _float_ids(array: pa.Array) -> pa.Array:
    """Strings of floats, one by one: whole numbers without a fraction, null for NaN."""
    values = np.asarray(array.cast(pa.float64()).fill_null(np.nan))
    whole = (np.abs(values) < _LARGEST_ID) & (np.floor(values) == values)
    integers = pa.array(np.where(whole, values, 0).astype(np.int64)).cast(pa.string())
    strings = pc.if_else(pa.array(whole), integers, array.cast(pa.string()))
    return pc.if_else(pa.array(np.isnan(values)), None, strings)


def _without_zeros(array: pa.Array) -> pa.Array:
    """Strings of decimals, without zeros at the end of the fraction."""
    if array.type.scale <= 0:
        return array.cast(pa.decimal256(76, 0)).cast(pa.string())
    return pc.replace_substring_regex(array.cast(pa.string()), pattern=r"\.?0+$", replacement="")
