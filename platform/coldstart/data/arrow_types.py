"""Arrow types of a user's columns: which type can be an id, text, an image, a time, a label or a feature, and how."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as types

Role = Literal["id", "text", "image", "time", "label", "feature"]

_ROLES: dict[str, Role] = {
    "title": "text",
    "text": "text",
    "tags": "text",
    "image": "image",
    "created_at": "time",
    "timestamp": "time",
    "label": "label",
}
_BOOL8, _UUID = "arrow.bool8", "arrow.uuid"
_FIXES: dict[Role, str] = {
    "id": "an id must be text, a whole number or a UUID: convert the column",
    "text": "text must be strings, numbers, dates or lists of them: put each field into a column of its own, and name "
    "the columns in data.files.columns.tags",
    "image": "images must be encoded JPEG or PNG bytes (binary, or Hugging Face's struct of bytes and path) in a "
    "Parquet file: store the bytes, or set data.files.columns.image: null",
    "time": "a time must be a timestamp, a date, Unix seconds or an ISO 8601 string: convert the column",
    "label": "a label must be 0 or 1, a boolean, or a rating: convert the column",
    "feature": "a feature must be text, a boolean or a number: convert the column, or remove it from the list",
}


class ColumnError(ValueError):
    """Values of a column cannot have their role. The message continues "column 'x' of FILE ..."."""


def role_of(field: str) -> Role:
    """The role of the column that a field of `data.files.columns` names."""
    return "id" if field.endswith("_id") else _ROLES.get(field, "feature")


def check_type(kind: pa.DataType, role: Role) -> None:
    """Checks that a column of this type can have the role. A column of nulls can have every role.

    Raises:
        ColumnError: it cannot; the message names the type, what is allowed and the fix.
    """
    allowed = _is_image if role == "image" else _ALLOWED[role]
    stored = plain_type(kind)
    if not (types.is_null(stored) or allowed(stored)):
        raise ColumnError(f"has type {kind}; {_FIXES[role]}")


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Type of what `plain` makes of a column of a type; the type itself if Arrow cannot convert it."""
    try:
        return plain(pa.schema([("x", kind)]).empty_table()["x"]).type
    except pa.ArrowException:
        return kind


def is_byte_like(kind: pa.DataType) -> bool:
    """Whether values of a type can be images, so that few of them may fill the memory."""
    return _is_image(plain_type(kind))


def plain(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """One array of an elementary type, or a list of one: without dictionaries, views, runs and extension types.

    UUIDs become strings of 36 characters.

    Raises:
        pa.ArrowInvalid: a string is not UTF-8.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        array = _storage(array)
    elif types.is_dictionary(kind):
        array = plain(array.dictionary_decode())
    elif types.is_run_end_encoded(kind):
        array = plain(pc.run_end_decode(array))
    elif types.is_string_view(kind):
        array = array.cast(pa.large_string())
    elif types.is_binary_view(kind):
        array = array.cast(pa.large_binary())
    elif types.is_float16(kind):
        array = array.cast(pa.float32())
    elif is_list(kind):
        array = _plain_list(array)
    if is_text(array.type):
        array.validate(full=True)
    return array


def text_or_plain(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """As `plain`; bytes (text of tools that do not mark it as such) become strings.

    Raises:
        ColumnError: bytes are not UTF-8.
    """
    array = plain(column)
    if not is_bytes(array.type):
        return array
    try:
        return array.cast(pa.large_binary()).cast(pa.large_string())
    except pa.ArrowInvalid as error:
        raise ColumnError(f"has type {array.type} and values that are not UTF-8 text; convert the column") from error


def joined_text(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Strings; the elements of a list, and of lists in it, are joined by commas. Null elements are left out."""
    array = text_or_plain(column)
    if is_list(array.type):
        filled = drop_null_elements(array, joined_text(array.values))
        joined = pc.binary_join(filled, ", ")
        return pc.if_else(pc.equal(joined, ""), None, joined)
    return array.cast(pa.string())


def drop_null_elements(lists: pa.Array, values: pa.Array) -> pa.Array:
    """Lists of those values [all elements of `lists`] that are not null; a null list becomes an empty one."""
    offsets = np.asarray(lists.offsets)
    valid = np.asarray(values.is_valid())
    first, last = offsets[:-1], np.where(np.asarray(lists.is_valid()), offsets[1:], offsets[:-1])
    before = np.concatenate([[0], np.cumsum(valid)])
    lengths = before[last] - before[first]
    size = len(values) + 1
    owned = np.cumsum(np.bincount(first, minlength=size) - np.bincount(last, minlength=size))[:-1] > 0
    kept = valid & owned
    return pa.LargeListArray.from_arrays(np.concatenate([[0], np.cumsum(lengths)]), values.filter(pa.array(kept)))


def image_bytes(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Encoded images as binary. Of a struct {bytes, path} the bytes; of a list of images the first one.

    Raises:
        ColumnError: the bytes of an image are not in the table, only a path.
    """
    array = plain(column)
    kind = array.type
    if types.is_null(kind):
        return array.cast(pa.large_binary())
    if types.is_struct(kind):
        return _struct_bytes(array)
    if not is_list(kind):
        return array.cast(pa.large_binary())
    if types.is_uint8(kind.value_type):
        return _byte_lists(array)
    filled = drop_null_elements(array, image_bytes(array.values))
    offsets = np.asarray(filled.offsets)
    return filled.values.take(pa.array(offsets[:-1], mask=np.diff(offsets) == 0))


def is_text(kind: pa.DataType) -> bool:
    """Whether the type is a string of 32-bit or 64-bit offsets."""
    return bool(types.is_string(kind) or types.is_large_string(kind))


def is_bytes(kind: pa.DataType) -> bool:
    """Whether the type is binary, of variable or fixed size."""
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind))


def is_list(kind: pa.DataType) -> bool:
    """Whether the type is a list of any layout."""
    return bool(
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
        or types.is_list_view(kind)
        or types.is_large_list_view(kind)
    )


def is_time(kind: pa.DataType) -> bool:
    """Whether the type is a timestamp or a date."""
    return bool(types.is_timestamp(kind) or types.is_date(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind))


def _is_joinable(kind: pa.DataType) -> bool:
    if is_list(kind):
        return types.is_null(kind.value_type) or _is_joinable(kind.value_type)
    return is_text(kind) or is_bytes(kind) or _is_number(kind) or types.is_boolean(kind) or is_time(kind)


def _is_image(kind: pa.DataType) -> bool:
    if types.is_struct(kind):
        position = kind.get_field_index("bytes")
        return position >= 0 and (types.is_null(kind.field(position).type) or _is_image(kind.field(position).type))
    if is_list(kind):
        return bool(types.is_uint8(kind.value_type)) or (not is_list(kind.value_type) and _is_image(kind.value_type))
    return is_bytes(kind) or bool(types.is_binary_view(kind))


_ALLOWED: dict[Role, Callable[[pa.DataType], bool]] = {
    "id": lambda kind: is_text(kind) or is_bytes(kind) or _is_number(kind),
    "text": _is_joinable,
    "time": lambda kind: is_time(kind) or is_text(kind) or is_bytes(kind) or _is_number(kind),
    "label": lambda kind: is_text(kind) or _is_number(kind) or types.is_boolean(kind),
    "feature": lambda kind: is_text(kind) or _is_number(kind) or types.is_boolean(kind),
}


def _storage(array: pa.Array) -> pa.Array:
    name = array.type.extension_name
    if name == _BOOL8:
        return array.cast(pa.bool_())
    storage = array.storage
    if name != _UUID:
        return plain(storage)
    digits = pc.utf8_lower(pc.binary_join_element_wise(*_hex_parts(storage), "-"))
    return digits.cast(pa.string())


def _hex_parts(storage: pa.Array) -> list[pa.Array]:
    """The five groups of hexadecimal digits of UUIDs."""
    digits = pa.array([None if value is None else value.hex() for value in storage.to_pylist()], pa.string())
    return [pc.utf8_slice_codeunits(digits, *ends) for ends in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32))]


def _plain_list(array: pa.Array) -> pa.Array:
    kind = array.type
    if types.is_list_view(kind) or types.is_large_list_view(kind):
        # Arrow 25 casts some views to lists with offsets that are missing.
        array = pa.array(array.to_pylist(), pa.large_list(kind.value_type))
    else:
        array = array.cast(pa.large_list(kind.value_field))
    values = plain(array.values)
    return pa.LargeListArray.from_arrays(array.offsets, values, mask=array.is_null())


def _struct_bytes(array: pa.Array) -> pa.Array:
    data = image_bytes(pc.struct_field(array, "bytes"))
    if array.type.get_field_index("path") < 0:
        return data
    path = plain(pc.struct_field(array, "path"))
    lost = np.flatnonzero(np.asarray(data.is_null()) & np.asarray(path.is_valid()))
    if len(lost):
        raise ColumnError(
            f"has images of which only the path is known, such as {path[int(lost[0])].as_py()!r}; store their bytes "
            "in the column, or null where there is no image"
        )
    return data


def _byte_lists(array: pa.Array) -> pa.Array:
    values = array.values
    if values.null_count:
        raise ColumnError("has images with missing bytes in a list of uint8; store images as binary")
    buffers = [None, pa.py_buffer(np.asarray(array.offsets)), pa.py_buffer(np.asarray(values))]
    flat = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(array), buffers)
    return pc.if_else(array.is_valid(), flat, None)
