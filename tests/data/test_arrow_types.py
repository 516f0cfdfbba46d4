"""Every Arrow type of a column is read in its role, or refused by name before anything is prepared."""

import datetime as dt
import decimal
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from coldstart.config import UserError
from coldstart.config.recipe import Columns, Files
from coldstart.data.arrow_types import ColumnError, can_name_images, check_type, plain, role_of
from coldstart.data.columns import as_floats, as_ids, as_images, as_text, as_unix_seconds
from coldstart.data.readers import check_files, clean_file_split, file_splits

UUIDS = [uuid.UUID(int=7), uuid.UUID("12345678-90ab-cdef-1234-567890ABCDEF")]
D = decimal.Decimal


@pytest.mark.parametrize(
    ("column", "ids"),
    [
        (pa.array([one.bytes for one in UUIDS] + [None], pa.uuid()), [*map(str, UUIDS), None]),
        (pa.array(["a", " b "], pa.string_view()), ["a", "b"]),
        (pa.array([b"a", b"b"], pa.binary_view()), ["a", "b"]),
        (pa.array([b"ab"], pa.binary(2)), ["ab"]),
        (pa.array(["a", "b", "a"]).dictionary_encode(), ["a", "b", "a"]),
        (pa.array([7, None], pa.uint64()).dictionary_encode(), ["7", None]),
        (pc.run_end_encode(pa.array(["a", "a", "b"])), ["a", "a", "b"]),
        (pa.array([7.0, None, float("nan"), 1e16, 0.5, float("inf")]), ["7", None, None, "1" + "0" * 16, "0.5", "inf"]),
        (pa.array([7.0], pa.float16()), ["7"]),
        (pa.array([D("7.00"), D("7.50"), D("100.00"), None]), ["7", "7.5", "100", None]),
        (pa.array([D(700)], pa.decimal128(5, -2)), ["700"]),
        (pa.array([D(70)], pa.decimal32(5, 0)), ["70"]),
        (pa.nulls(2), [None, None]),
        (pa.ExtensionArray.from_storage(pa.json_(), pa.array(["x"])), ["x"]),
        (pa.chunked_array([["a"], ["b"]], pa.string_view()), ["a", "b"]),
    ],
)
def test_ids_of_every_type_are_text(column: pa.Array, ids: list[str | None]) -> None:
    check_type(column.type, "id")
    assert as_ids(column).to_pylist() == ids


@pytest.mark.parametrize(
    ("column", "texts"),
    [
        (pa.array([["a", "b"], [], None, ["c", None]]), ["a, b", None, None, "c"]),
        (pa.array([["a"], None, ["b", "c"]], pa.list_view(pa.string())), ["a", None, "b, c"]),
        (pa.array([["a", "b"], None, ["c", "d"]], pa.list_(pa.string(), 2)), ["a, b", None, "c, d"]),
        (pa.array([["a"], ["b"]], pa.large_list(pa.string_view())), ["a", "b"]),
        (pa.array([[["a", "b"], ["c"]], [[]], None, [["d"], None]]), ["a, b, c", None, None, "d"]),
        (pa.array([["x"], ["a", "b"], ["y"]]).slice(1, 1), ["a, b"]),
        (pa.array([["x"], ["a", "b"], None], pa.large_list(pa.string())).slice(1), ["a, b", None]),
        (pa.array([[1, 2], None]), ["1, 2", None]),
        (pa.array([UUIDS[0].bytes], pa.uuid()), [str(UUIDS[0])]),
        (pa.array([dt.date(2024, 1, 2)]), ["2024-01-02"]),
        (pa.array([True, None]), ["true", None]),
        (pa.array([[None]], pa.list_(pa.null())), [None]),
    ],
)
def test_text_and_tags_of_every_type_are_read(column: pa.Array, texts: list[str | None]) -> None:
    check_type(column.type, "text")
    assert as_text(column).to_pylist() == texts


HF = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.mark.parametrize(
    ("column", "images"),
    [
        (pa.array([b"x", None], pa.binary_view()), [b"x", None]),
        (pa.array([b"xy"], pa.binary(2)), [b"xy"]),
        (pa.array([{"bytes": b"x", "path": "a.png"}, None, {"bytes": None, "path": None}], HF), [b"x", None, None]),
        (
            pa.array([[{"bytes": b"x", "path": None}, {"bytes": b"y", "path": None}], [], None], pa.list_(HF)),
            [b"x"] + [None] * 2,
        ),
        (pa.array([[None, b"y"], [b"z"]], pa.large_list(pa.binary())), [b"y", b"z"]),
        (pa.array([[0], [1, 2], [], None, [3]], pa.list_(pa.uint8())).slice(1), [b"\1\2", b"", None, b"\3"]),
        (
            pa.array([[{"bytes": b"w"}], [{"bytes": b"x"}]], pa.list_(pa.struct([("bytes", pa.large_binary())]))).slice(
                1
            ),
            [b"x"],
        ),
        (pa.nulls(1), [None]),
        (pa.array([b"x", b"y", b"x"]).dictionary_encode(), [b"x", b"y", b"x"]),
    ],
)
def test_images_of_every_layout_are_read(column: pa.Array, images: list[bytes | None]) -> None:
    check_type(column.type, "image")
    assert pc.struct_field(as_images(column), "bytes").to_pylist() == images
    assert not any(pc.struct_field(as_images(column), "path").to_pylist())


HF_VIEW = pa.struct([("bytes", pa.null()), ("path", pa.string_view())])


@pytest.mark.parametrize(
    ("column", "names"),
    [
        (pa.array([" a.png", " ", None, ""]), ["a.png", None, None, None]),
        (pa.array(["a", "b", "a"]).dictionary_encode(), ["a", "b", "a"]),
        (pa.array(["a", None], pa.string_view()), ["a", None]),
        (pa.chunked_array([["a"], ["b"]], pa.large_string()), ["a", "b"]),
        (pc.run_end_encode(pa.array(["a", "a"])), ["a", "a"]),
        (pa.array([["a", "b"], [], None, [None, " ", "c"]]), ["a", None, None, "c"]),
        (pa.array([["x"], ["a", "b"]], pa.large_list(pa.string_view())).slice(1), ["a"]),
        (pa.array([{"bytes": None, "path": "a"}, {"bytes": None, "path": None}, None], HF_VIEW), ["a", None, None]),
        (pa.array([[{"bytes": None, "path": None}, {"bytes": None, "path": "b"}]], pa.list_(HF)), ["b"]),
    ],
)
def test_names_of_images_of_every_layout_are_read(column: pa.Array, names: list[str | None]) -> None:
    check_type(column.type, "image")
    assert can_name_images(column.type)
    assert as_images(column).type == as_images(pa.nulls(0)).type
    assert pc.struct_field(as_images(column), "path").to_pylist() == names
    assert not any(pc.struct_field(as_images(column), "bytes").to_pylist())


def test_a_path_counts_where_there_are_no_bytes() -> None:
    rows = [{"bytes": b"x", "path": "a"}, {"bytes": None, "path": "b"}, {"bytes": b"", "path": "c"}]
    images = as_images(pa.array([*rows, {"bytes": b"", "path": None}], HF)).to_pylist()
    nothing = {"bytes": None}
    assert images[0] == {"bytes": b"x", "path": None}
    assert images[1:] == [nothing | {"path": "b"}, nothing | {"path": "c"}, {"bytes": b"", "path": None}]


@pytest.mark.parametrize(
    "kind",
    [pa.binary(), pa.list_(pa.uint8()), pa.null(), pa.struct([("bytes", pa.binary())]), pa.list_(pa.binary())],
)
def test_bytes_alone_name_no_image(kind: pa.DataType) -> None:
    assert not can_name_images(kind)


def test_times_and_labels_of_every_type_are_read() -> None:
    when = dt.datetime(2024, 1, 2, tzinfo=dt.UTC)
    at = when.timestamp()
    for column in (
        pa.array(["2024-01-02T00:00:00Z"], pa.string_view()),
        pa.array([when], pa.timestamp("ns", "Europe/Berlin")),
        pa.array([when.date()], pa.date64()),
        pa.array([D(int(at))], pa.decimal128(12, 2)),
        pa.array([b"2024-01-02"], pa.binary()),
        pa.array(["2024-01-02"]).dictionary_encode(),
    ):
        check_type(column.type, "time")
        assert as_unix_seconds(column)[0].tolist() == [at]
    for column in (
        pa.array([1, 0], pa.uint8()),
        pa.array([True, False]),
        pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, 0], pa.int8())),
        pa.array(["1", "0"], pa.string_view()),
        pa.array([D(1), D(0)]),
    ):
        check_type(column.type, "label")
        assert as_floats(column).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("kind", "role", "fix"),
    [
        (pa.bool_(), "id", "an id must be text"),
        (pa.list_(pa.string()), "id", "an id must be text"),
        (pa.timestamp("s"), "id", "an id must be text"),
        (pa.struct([("a", pa.string())]), "text", "into a column of its own"),
        (pa.map_(pa.string(), pa.string()), "text", "into a column of its own"),
        (pa.list_(pa.struct([("name", pa.string())])), "text", "into a column of its own"),
        (pa.duration("s"), "text", "text must be"),
        (pa.bool_(), "image", "image: null"),
        (pa.list_(pa.list_(pa.string())), "image", "text that names image files"),
        (pa.struct([("bytes", pa.string()), ("path", pa.string())]), "image", "encoded JPEG or PNG"),
        (pa.list_(pa.int64()), "image", "encoded JPEG or PNG"),
        (pa.list_(pa.list_(pa.uint8())), "image", "encoded JPEG or PNG"),
        (pa.struct([("path", pa.string())]), "image", "encoded JPEG or PNG"),
        (pa.time64("us"), "time", "Unix seconds"),
        (pa.bool_(), "time", "Unix seconds"),
        (pa.duration("s"), "time", "Unix seconds"),
        (pa.date32(), "label", "0 or 1"),
        (pa.list_(pa.int8()), "label", "0 or 1"),
        (pa.timestamp("s"), "feature", "remove it from the list"),
        (pa.binary(), "feature", "remove it from the list"),
    ],
)
def test_types_without_meaning_for_a_role_are_refused(kind: pa.DataType, role: Any, fix: str) -> None:
    with pytest.raises(ColumnError, match=fix) as error:
        check_type(kind, role)
    assert str(kind) in str(error.value)


def test_the_role_of_a_recipe_field() -> None:
    assert [role_of(field) for field in ("item_id", "user_id", "tags", "created_at", "image", "user_features")] == [
        "id", "id", "text", "time", "image", "feature",
    ]  # fmt: skip


def test_text_that_is_not_utf8_is_refused() -> None:
    bad = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(np.array([0, 1], np.int32)), pa.py_buffer(b"\xff")])
    with pytest.raises(pa.ArrowInvalid, match="UTF8"):
        plain(bad)
    with pytest.raises(ColumnError, match="not UTF-8"):
        as_ids(pa.array([b"\xff"]))


def tables(root: Path, items: dict[str, Any], events: dict[str, Any] | None = None) -> Files:
    good = {"user_id": ["u"], "item_id": ["a"], "timestamp": [5], "label": [1]}
    pq.write_table(pa.table({"item_id": ["a"], "title": ["t"], "image": pa.nulls(1)} | items), root / "items.parquet")
    pq.write_table(pa.table(good | (events or {})), root / "events.parquet")
    return Files(root=root)


@pytest.mark.parametrize(
    ("items", "columns", "message"),
    [
        ({"item_id": [True]}, {}, r"columns\.item_id: column 'item_id' of .*items\.parquet has type bool; an id must"),
        ({"tag": [{"a": "x"}]}, {"tags": ("tag",)}, r"columns\.tags: column 'tag' of .* has type struct"),
        ({"item_id": [b"\xff"]}, {}, r"columns\.item_id: column 'item_id' of .* not UTF-8"),
        ({"image": [{"bytes": None, "path": "x.png"}]}, {}, r"image: none of .* column 'image' .*'x\.png', looked for"),
        ({"at": pa.array([1], pa.time32("s"))}, {"created_at": "at"}, "column 'at' of .* has type time32"),
    ],
)
def test_the_check_of_the_files_names_the_column(
    tmp_path: Path, items: dict[str, Any], columns: dict[str, Any], message: str
) -> None:
    files = tables(tmp_path, items).model_copy(update={"columns": Columns(**columns)})
    with pytest.raises(UserError, match=message):
        check_files(files)


def test_every_file_of_a_table_is_checked(tmp_path: Path) -> None:
    files = tables(tmp_path, {})
    logs = tmp_path / "logs"
    logs.mkdir()
    good = {"user_id": ["u"], "item_id": ["a"], "timestamp": [5], "label": [1]}
    pq.write_table(pa.table(good), logs / "a.parquet")
    pq.write_table(pa.table(dict(reversed(good.items())) | {"more": [{"x": 1}]}), logs / "b.parquet")
    pq.write_table(pa.table(good | {"label": pa.nulls(1)}), logs / "c.parquet")
    files = files.model_copy(update={"events": "logs"})
    assert check_files(files).events.rows == (1, 1, 1)
    pq.write_table(pa.table(good | {"label": [[1]]}), logs / "d.parquet")
    with pytest.raises(UserError, match=r"columns\.label: column 'label' of .*d\.parquet has type list"):
        check_files(files)
    twice = pa.table([[1]] * 2 + [["a"]] * 3, names=["label", "label", "user_id", "item_id", "timestamp"])
    pq.write_table(twice, logs / "d.parquet")
    with pytest.raises(UserError, match=r"d\.parquet has 2 columns named 'label'"):
        check_files(files)


def test_a_null_column_in_the_first_file_takes_its_type_from_the_others(tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    shop.mkdir()
    tables(tmp_path, {})
    for name, price, image in (("a", pa.nulls(1), pa.nulls(1)), ("b", pa.array([1.5]), pa.array([b"x"]))):
        pq.write_table(
            pa.table({"item_id": [name], "title": ["t"], "price": price, "image": image}), shop / f"{name}.parquet"
        )
    columns = Columns(item_features=("price",))
    files = Files(root=tmp_path, items="shop", columns=columns)
    assert [feature.kind for feature in check_files(files).features(columns)] == ["numeric"]
    pq.write_table(
        pa.table({"item_id": ["c"], "title": ["t"], "price": ["?"], "image": pa.nulls(1)}), shop / "c.parquet"
    )
    with pytest.raises(UserError, match=r"feature 'price' has type string in .*c\.parquet, but double in other files"):
        check_files(files)


def test_an_unforeseen_error_names_table_file_rows_and_column(tmp_path: Path) -> None:
    files = tables(tmp_path, {"item_id": ["a"] * 40, "title": ["t"] * 40, "image": pa.nulls(40)})
    ids = pa.array([b"a"] * 39 + [b"\xff"], pa.binary())
    pq.write_table(pa.table({"item_id": ids, "title": ["t"] * 40, "image": pa.nulls(40)}), tmp_path / "items.parquet")
    table = check_files(files).items
    names = [column for _, column in table.wanted]

    def read(batch: Any) -> pa.Table:
        return as_ids(batch.table["item_id"])

    def fail(batch: Any) -> pa.Table:
        raise KeyError("odd")

    for clean, message in (
        (read, r"columns\.item_id: column 'item_id' of .*items\.parquet has type binary and values that are not UTF-8"),
        (fail, r"columns\.item_id: column 'item_id' of .*items\.parquet"),
    ):
        with pytest.raises(UserError, match=message):
            list(clean_file_split(file_splits(table)[0], names, clean, table.wanted, field="items"))
    with pytest.raises(
        UserError, match=r"data\.files\.items: rows 0 to 39 of .*items\.parquet, cannot be read: KeyError"
    ):
        list(clean_file_split(file_splits(table)[0], names, fail, (), field="items"))


def test_large_images_are_read_a_few_at_a_time(tmp_path: Path) -> None:
    image = bytes(1_000_000)
    names = [str(row) for row in range(100)]
    files = tables(tmp_path, {"item_id": names, "title": names, "image": [image] * 100})
    table = check_files(files).items
    sizes = [
        len(part)
        for part in clean_file_split(
            file_splits(table)[0], ["item_id", "image"], lambda batch: batch.table, table.wanted, field="items"
        )
    ]
    assert sum(sizes) == 100
    assert max(sizes) <= 32
    small = tables(tmp_path, {"item_id": names, "title": names, "image": [b"x"] * 100})
    table = check_files(small).items
    [part] = clean_file_split(
        file_splits(table)[0], ["item_id", "image"], lambda batch: batch.table, table.wanted, field="items"
    )
    assert len(part) == 100
