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
    "Parquet file, or text that names image files: store the bytes or the paths, or set data.files.columns.image: null",
    "time": "a time must be a timestamp, a date, Unix seconds or an ISO 8601 string: convert the column",
    "label": "a label must be 0 or 1, a boolean, or a rating: convert the column",
    "feature": "a feature must be text, a boolean or a number: convert the column, or remove it from the list",
}
_IMAGE = pa.struct([("bytes", pa.large_binary()), ("path", pa.large_string())])


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
    return _is_encoded(plain_type(kind))


def can_name_images(kind: pa.DataType) -> bool:
    """Whether values of a type of images can be the names of image files, which are larger than the values."""
    stored = plain_type(kind)
    if is_list(stored):
        stored = stored.value_type
    if types.is_struct(stored):
        position = stored.get_field_index("path")
        return position >= 0 and is_text(plain_type(stored.field(position).type))
    return is_text(stored)


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


def image_parts(column: pa.Array | pa.ChunkedArray) -> pa.StructArray:
    """Images as a struct of `bytes` (encoded) and `path` (a name of the file); at most one of them is not null.

    Text is a path. Of a struct {bytes, path} the path counts where there are no bytes; of a list of images the first.

    Raises:
        ColumnError: bytes of an image in a list of uint8 are null.
    """
    array = plain(column)
    kind = array.type
    if types.is_null(kind):
        return pa.nulls(len(array), _IMAGE)
    if types.is_struct(kind):
        return _struct_parts(array)
    if is_text(kind):
        return _image_struct(pa.nulls(len(array), pa.large_binary()), array)
    if not is_list(kind) or types.is_uint8(kind.value_type):
        data = _byte_lists(array) if is_list(kind) else array.cast(pa.large_binary())
        return _image_struct(data, pa.nulls(len(array), pa.large_string()))
    filled = drop_null_elements(array, image_parts(array.values))
    offsets = np.asarray(filled.offsets)
    return filled.values.take(pa.array(offsets[:-1], mask=np.diff(offsets) == 0))


def trimmed(strings: pa.Array) -> pa.Array:
    """Strings without white space at their ends; null where nothing is left."""
    short = pc.utf8_trim_whitespace(strings)
    return pc.if_else(pc.equal(short, ""), None, short)


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
    return _is_encoded(kind) or is_text(kind.value_type if is_list(kind) else kind)


def _is_encoded(kind: pa.DataType) -> bool:
    if types.is_struct(kind):
        position = kind.get_field_index("bytes")
        return position >= 0 and (types.is_null(kind.field(position).type) or _is_encoded(kind.field(position).type))
    if is_list(kind):
        return bool(types.is_uint8(kind.value_type)) or (not is_list(kind.value_type) and _is_encoded(kind.value_type))
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
    # Arrow takes no mask together with offsets that begin within a buffer, as those of a slice do.
    offsets = pa.array(np.asarray(array.offsets))
    return pa.LargeListArray.from_arrays(offsets, values, mask=array.is_null())


def _struct_parts(array: pa.Array) -> pa.StructArray:
    data = pc.struct_field(image_parts(pc.struct_field(array, "bytes")), "bytes")
    path = pa.nulls(len(array), pa.large_string())
    if array.type.get_field_index("path") >= 0:
        named = plain(pc.struct_field(array, "path"))
        path = named if is_text(named.type) else path
    return _image_struct(data, path)


def _image_struct(data: pa.Array, path: pa.Array) -> pa.StructArray:
    """Where there are bytes, the path is null; where there is a path, the bytes are null."""
    path = trimmed(path.cast(pa.large_string()))
    if path.null_count < len(path):
        path = pc.if_else(pc.fill_null(pc.greater(pc.binary_length(data), 0), False), None, path)
        data = pc.if_else(path.is_valid(), None, data)
    nothing = pc.and_(data.is_null(), path.is_null())
    return pa.StructArray.from_arrays([data, path], fields=list(_IMAGE), mask=nothing)


def _byte_lists(array: pa.Array) -> pa.Array:
    values = array.values
    if values.null_count:
        raise ColumnError("has images with missing bytes in a list of uint8; store images as binary")
    buffers = [None, pa.py_buffer(np.asarray(array.offsets)), pa.py_buffer(np.asarray(values))]
    flat = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(array), buffers)
    return pc.if_else(array.is_valid(), flat, None)
