"""Conversion of one column of a user's table: to ids, text, numbers or times."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

_LATEST = 7_258_118_400  # 2200-01-01


def as_ids(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Ids and names as strings. 7, 7.0 (pandas writes an integer column with gaps so) and " 7 " are the same id."""
    array = _plain(column)
    if pa.types.is_floating(array.type):
        integral = np.asarray(array.drop_null()) % 1 == 0
        array = array.cast(pa.int64()) if integral.all() else array
    return _trimmed(array.cast(pa.string()))


def as_text(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Free text as strings; the elements of a list are joined by commas."""
    array = _plain(column)
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        kind = pa.list_(pa.string())
        array = pc.binary_join(array.cast(kind), ", ")
    return _trimmed(array.cast(pa.string()))


def as_floats(column: pa.Array | pa.ChunkedArray) -> NDArray[np.float64]:
    """Numbers; NaN where a value is missing or not a number."""
    array = _plain(column)
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.int8())
    if pa.types.is_decimal(array.type):
        array = array.cast(pa.float64())
    values: NDArray[np.float64] = pd.to_numeric(array.to_pandas(), errors="coerce").to_numpy(np.float64)
    return values


def as_unix_seconds(column: pa.Array | pa.ChunkedArray) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Unix seconds (NaN where unreadable), and a mask of the times outside 1970 to 2200."""
    array = _plain(column)
    if pa.types.is_timestamp(array.type) or pa.types.is_date(array.type):
        seconds = array.cast(pa.timestamp("s"), safe=False).cast(pa.int64()).to_pandas().to_numpy(np.float64)
    else:
        seconds = np.floor(as_floats(column))
        if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
            times = pd.to_datetime(array.to_pandas(), format="ISO8601", errors="coerce", utc=True)
            dated = np.isnan(seconds) & times.notna().to_numpy()
            seconds[dated] = times.to_numpy("datetime64[s]").astype(np.int64)[dated]
    return seconds, (seconds <= 0) | (seconds >= _LATEST)


def _plain(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """One array, without dictionary encoding."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _trimmed(strings: pa.Array) -> pa.Array:
    trimmed = pc.utf8_trim_whitespace(strings)
    return pc.if_else(pc.equal(trimmed, ""), None, trimmed)
