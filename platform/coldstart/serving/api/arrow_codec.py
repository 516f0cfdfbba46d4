"""Rank requests and responses in Arrow: an IPC stream of one record batch, one row per user.

Columns of a request, with the names, meaning and limits of JSON; columns marked `?` are optional:

    candidates      list<string>, all ids; or list<struct<item_id, title, text, image (binary), features (struct)>>
    history?        list<struct<item_id: string, label: integer, timestamp: integer>>
    user_id?        string, may be null
    now?            integer, may be null
    user_features?  struct, a field per feature
    context?        struct, a field per feature

The response has `scores` list<float>, `slot_sources` list<string>, `release` string and `ms` double.

Arrow parses bytes from untrusted clients here. Compressed buffers, dictionaries and extension types (which may run
library code) are refused from the message headers alone, before Arrow does any work.
"""

import struct
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import types

from coldstart.serving.api.errors import ApiError
from coldstart.serving.api.json_body import validated
from coldstart.serving.api.rank_call import RankCall
from coldstart.serving.api.schemas import LAST_SECOND, MAX_HISTORY, MAX_ID, MAX_USERS, RankRequest, RankResponse
from coldstart.serving.core.scoring import Ints

_RESPONSE = pa.schema(
    {
        "scores": pa.list_(pa.float32()),
        "slot_sources": pa.list_(pa.string()),
        "release": pa.string(),
        "ms": pa.float64(),
    }
)
_HEAD, _END = _RESPONSE.serialize().to_pybytes(), b"\xff\xff\xff\xff\x00\x00\x00\x00"
_CONTINUATION, _MAX_SCHEMA = 0xFFFFFFFF, 16_384
_COLUMNS = {"candidates", "history", "user_id", "now", "user_features", "context"}
_EVENT_FIELDS = {"item_id", "label", "timestamp"}


class _History(NamedTuple):
    ids: list[str]
    labels: Ints
    times: Ints


_EMPTY = _History([], np.empty(0, np.int64), np.empty(0, np.int64))


def decode_arrow(raw: bytes) -> list[RankCall]:
    """Parses and validates a request.

    Returns:
        One call per user.

    Raises:
        ApiError: 400, the bytes are not such a stream; 422, with the field and the reason.
    """
    try:
        columns, users = _columns(raw)
    except (pa.ArrowException, OSError, ValueError, LookupError, struct.error, EOFError) as error:
        raise ApiError(400, "bad_request", "the body is not an Arrow IPC stream of one plain record batch") from error
    if not 1 <= users <= MAX_USERS:
        raise _invalid("the batch", f"it has {users} rows, one per user; 1 to {MAX_USERS} are allowed")
    if unknown := sorted(columns.keys() - _COLUMNS):
        raise _invalid(unknown[0][:MAX_ID], "Extra inputs are not permitted")
    if "candidates" not in columns:
        raise _invalid("candidates", "Field required")
    histories = _histories(columns["history"]) if "history" in columns else [_EMPTY] * users
    user_ids = _scalar_column(columns, "user_id", types.is_string, "string") or [None] * users
    times = _scalar_column(columns, "now", types.is_integer, "integer") or [None] * users
    calls = []
    for row, call in enumerate(_candidates(columns)):
        name, now = user_ids[row], times[row]
        if name is not None and not 1 <= len(name) <= MAX_ID:
            raise _invalid("user_id", f"1 to {MAX_ID} characters are allowed")
        if now is not None and not 0 <= now <= LAST_SECOND:
            raise _invalid("now", f"0 to {LAST_SECOND} is allowed")
        past = histories[row]
        calls.append(
            replace(
                call,
                user_id=name,
                now=now,
                history_ids=past.ids,
                history_labels=past.labels,
                history_times=past.times,
            )
        )
    return calls


def encode_arrow(responses: list[RankResponse]) -> bytes:
    """Encodes responses as a stream with one row each."""
    columns = (
        [response.scores for response in responses],
        [response.slot_sources for response in responses],
        [response.release for response in responses],
        [response.ms for response in responses],
    )
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _RESPONSE, strict=True)]
    return b"".join((_HEAD, pa.RecordBatch.from_arrays(arrays, schema=_RESPONSE).serialize(), _END))


def _columns(raw: bytes) -> tuple[dict[str, Any], int]:
    """Columns and number of rows of the record batch; a malformed stream raises one of many exceptions."""
    continuation, size = struct.unpack_from("<Ii", raw)
    if continuation != _CONTINUATION or not 0 < size <= _MAX_SCHEMA:
        raise ValueError("no message")
    schema = _schema(raw[: 8 + size])
    message = pa.ipc.read_message(pa.py_buffer(raw).slice(8 + size))
    if message.type != "record batch" or _is_compressed(message.metadata.to_pybytes()):
        raise ValueError("no plain record batch")
    batch = pa.ipc.read_record_batch(message, schema)
    batch.validate(full=True)
    return dict(zip(schema.names, batch.columns, strict=True)), batch.num_rows


@lru_cache(maxsize=64)
def _schema(head: bytes) -> pa.Schema:
    """The schema in the first message; cached, as a client sends the same one with every request."""
    if b"ARROW:extension" in head:
        raise ValueError("an extension type")
    schema = pa.ipc.read_schema(pa.py_buffer(head))
    if len(set(schema.names)) < len(schema.names):
        raise ValueError("a name twice")
    for field in schema:
        _check_type(field.type)
    return schema


def _check_type(kind: pa.DataType) -> None:
    """Refuses types that this API does not use, and types whose few bytes can expand to many values."""
    if types.is_list(kind):
        _check_type(kind.value_type)
    elif types.is_struct(kind):
        names = [kind.field(i).name for i in range(kind.num_fields)]
        if not names or len(set(names)) < len(names):
            raise ValueError("a name twice, or none")
        for i in range(kind.num_fields):
            _check_type(kind.field(i).type)
    elif not (
        types.is_string(kind)
        or types.is_binary(kind)
        or types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_boolean(kind)
    ):
        raise ValueError("an unsupported type")


def _is_compressed(metadata: bytes) -> bool:
    """Reads `RecordBatch.compression` from a message's flatbuffer, with the layout of Arrow's Message.fbs."""

    def field(table: int, slot: int) -> int:
        vtable = table - struct.unpack_from("<i", metadata, table)[0]
        at = 4 + 2 * slot
        if vtable < 0 or at + 2 > struct.unpack_from("<H", metadata, vtable)[0]:
            return 0
        offset: int = struct.unpack_from("<H", metadata, vtable + at)[0]
        return table + offset if offset else 0

    header = field(struct.unpack_from("<I", metadata, 0)[0], 2)
    return header == 0 or field(header + struct.unpack_from("<I", metadata, header)[0], 3) != 0


def _invalid(where: str, what: str) -> ApiError:
    return ApiError(422, "invalid", f"{where}: {what}")


def _scalar_column(columns: dict[str, Any], name: str, is_type: Any, kind: str) -> list[Any] | None:
    if name not in columns:
        return None
    if not is_type(columns[name].type):
        raise _invalid(name, f"the column must be of type {kind}")
    values: list[Any] = columns[name].to_pylist()
    return values


def _flatten(column: pa.Array, name: str) -> tuple[list[tuple[int, int]], pa.Array]:
    """Start and end of each row of a list column in its flat values, and these values."""
    if not types.is_list(column.type):
        raise _invalid(name, "the column must be of type list")
    offsets = column.offsets.to_numpy()
    values = column.values.slice(offsets[0], offsets[-1] - offsets[0])
    if column.null_count or values.null_count:
        raise _invalid(name, "null is not allowed")
    return list(pairwise((offsets - offsets[0]).tolist())), values


def _ids(values: pa.Array, where: str) -> list[str]:
    if not types.is_string(values.type) or values.null_count:
        raise _invalid(where, "must be of type string, without null")
    ids: list[str] = values.to_pylist()
    if ids and not 1 <= min(map(len, ids)) <= max(map(len, ids)) <= MAX_ID:
        raise _invalid(where, f"1 to {MAX_ID} characters are allowed")
    return ids


def _ints(values: pa.Array, where: str, limit: int) -> Ints:
    if not types.is_integer(values.type) or values.null_count:
        raise _invalid(where, "must be of an integer type, without null")
    numbers = values.to_numpy()
    if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) <= limit:
        raise _invalid(where, f"0 to {limit} is allowed")
    return np.asarray(numbers, np.int64)


def _histories(column: pa.Array) -> list[_History]:
    rows, events = _flatten(column, "history")
    if not types.is_struct(events.type) or {field.name for field in events.type.fields} != _EVENT_FIELDS:
        raise _invalid("history", "must be a list of struct<item_id, label, timestamp>")
    if any(end - begin > MAX_HISTORY for begin, end in rows):
        raise _invalid("history", f"at most {MAX_HISTORY} events are allowed")
    ids = _ids(events.field("item_id"), "history.item_id")
    labels = _ints(events.field("label"), "history.label", 1)
    times = _ints(events.field("timestamp"), "history.timestamp", LAST_SECOND)
    return [_History(ids[begin:end], labels[begin:end], times[begin:end]) for begin, end in rows]


def _candidates(columns: dict[str, Any]) -> list[RankCall]:
    """One call per row, without history; requests with more than ids are validated like JSON."""
    rows, values = _flatten(columns["candidates"], "candidates")
    only_ids = not types.is_struct(values.type)
    features = {name: columns[name].to_pylist() for name in ("user_features", "context") if name in columns}
    if only_ids and not features:
        ids: list[str | None] = [*_ids(values, "candidates")]
        if any(begin == end for begin, end in rows):
            raise _invalid("candidates", "at least one is required")
        return [RankCall(ids[begin:end], *_EMPTY) for begin, end in rows]
    if only_ids:
        items = [{"item_id": item_id} for item_id in _ids(values, "candidates")]
    else:
        items = [_drop_nulls(item) for item in values.to_pylist()]
    return [
        RankCall.from_request(
            validated(
                RankRequest,
                {"candidates": items[begin:end]}
                | {name: _drop_nulls(values[row]) for name, values in features.items() if values[row] is not None},
            )
        )
        for row, (begin, end) in enumerate(rows)
    ]


def _drop_nulls(value: Any) -> Any:
    """Removes null fields from a struct, as JSON clients leave them out."""
    if not isinstance(value, dict):
        return value
    return {name: _drop_nulls(field) for name, field in value.items() if field is not None}
