import datetime as dt
import io
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from coldstart.config.recipe import Columns, Files
from coldstart.data import cleaning
from coldstart.data.cleaning import clean_events, clean_items
from coldstart.data.image_files import ImageFiles
from coldstart.data.readers import RawBatch

LIMITS = {"max_bytes": 5000, "max_pixels": 100}
IMAGES = ImageFiles.of(Files())


def _image(side: int = 4) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(stream, "PNG")
    return stream.getvalue()


def _items(*rows: dict[str, Any], columns: Columns | None = None) -> list[dict[str, Any]]:
    table = pa.Table.from_pylist([{"item_id": None, "title": None, "image": None} | row for row in rows])
    table = table.set_column(table.column_names.index("image"), "image", table["image"].cast(pa.binary()))
    return clean_items(RawBatch(10, table), columns or Columns(), IMAGES, **LIMITS).to_pylist()


def _events(known: list[str], **columns: Any) -> list[dict[str, Any]]:
    positive_threshold = columns.pop("positive_threshold", None)
    count = max(len(values) for values in columns.values())
    good = {"user_id": ["u"] * count, "item_id": [known[0]] * count, "timestamp": [5] * count, "label": [1] * count}
    batch = RawBatch(0, pa.table(good | columns))
    cleaned = clean_events(batch, Columns(), pa.array(known), positive_threshold=positive_threshold, oracle=False)
    return cleaned.to_pylist()


def test_each_problem_of_an_item_has_its_reason() -> None:
    large, broken = _image(11), b"no image"
    rows = _items(
        {"item_id": "good", "title": "t", "image": _image()},
        {"title": "no id"},
        {"item_id": " ", "title": "blank id"},
        {"item_id": "silent"},
        {"item_id": "silent2", "title": "  ", "image": b""},
        {"item_id": "broken", "title": "t", "image": broken},
        {"item_id": "lost", "image": broken},
        {"item_id": "large", "title": "t", "image": large},
        {"item_id": "heavy", "title": "t", "image": bytes(6000)},
        {"item_id": "seen", "image": _image()},
    )
    assert [row["row"] for row in rows] == list(range(10, 20))
    assert [row["item_id"] for row in rows] == [
        "good",
        None,
        None,
        None,
        None,
        "broken",
        None,
        "large",
        "heavy",
        "seen",
    ]
    assert [row["key"] for row in rows][5:7] == ["broken", "lost"]
    reasons = [row["reason"] for row in rows]
    assert reasons[0] is reasons[9] is None
    assert reasons[1] == reasons[2] == cleaning.NO_ITEM_ID
    assert reasons[3] == reasons[4] == cleaning.NOTHING_TO_READ
    assert "kept without its image" in reasons[5]
    assert "kept" not in reasons[6]
    assert "11 x 11 pixels" in reasons[7]
    assert "6000 bytes" in reasons[8]
    assert [row["image"] is not None for row in rows] == [True] + [False] * 8 + [True]


def test_a_text_alone_is_enough_content() -> None:
    [row] = _items({"item_id": "a", "body": "words"}, columns=Columns(text="body"))
    assert (row["text"], row["reason"]) == ("words", None)


@pytest.mark.parametrize(
    ("tags", "text", "expected"),
    [
        ({"genres": "Drama|Comedy", "year": 1994}, "A plot.", "genres: Drama, Comedy; year: 1994. A plot."),
        ({"genres": None, "year": 1994}, None, "year: 1994"),
        ({"genres": ["Drama", "Comedy"], "year": None}, None, "genres: Drama, Comedy"),
        ({"genres": None, "year": None}, "A plot.", "A plot."),
        ({"genres": None, "year": None}, None, None),
    ],
)
def test_tags_are_added_to_the_text(tags: dict[str, Any], text: str | None, expected: str | None) -> None:
    columns = Columns(text="body", tags=("genres", "year"))
    assert _items({"item_id": "a", "title": "t", "body": text, **tags}, columns=columns)[0]["text"] == expected


@pytest.mark.parametrize(
    "ids",
    [[7, 8], [7.0, 8.0], [" 7", "8 "], pa.array(["7", "8"]).dictionary_encode(), pa.array([7, 8], pa.uint16())],
    ids=["integer", "float", "padded", "dictionary", "short"],
)
def test_ids_of_any_type_match(ids: Any) -> None:
    rows = _events(["7", "8"], item_id=ids, user_id=ids)
    assert [row["item_idx"] for row in rows] == [1, 2]
    assert [row["user_id"] for row in rows] == ["7", "8"]


def test_each_problem_of_an_event_has_its_reason() -> None:
    rows = _events(
        ["a"],
        user_id=["u", None, "u", "u", "u", "u", "u", " "],
        item_id=["a", "a", None, "z", "a", "a", "a", "a"],
        timestamp=[5, 5, 5, 5, None, 1_700_000_000_000, 5, 5],
        label=[1, 1, 1, 1, 1, 1, 2, 1],
    )
    expected = [None, cleaning.NO_USER, cleaning.NO_ITEM_ID, cleaning.UNKNOWN_ITEM, cleaning.BAD_TIME]
    assert [row["reason"] for row in rows] == [*expected, cleaning.FAR_TIME, cleaning.BAD_LABEL, cleaning.NO_USER]
    assert rows[3]["key"] == "u z"
    assert rows[0]["key"] is None


@pytest.mark.parametrize(
    "times",
    [
        [1_700_000_000] * 2,
        [1_700_000_000.7, 1_700_000_000.0],
        ["1700000000", "2023-11-14T22:13:20Z"],
        ["2023-11-14 22:13:20", "2023-11-14T23:13:20+01:00"],
        [dt.datetime(2023, 11, 14, 22, 13, 20, tzinfo=dt.UTC)] * 2,
        pa.array([1_700_000_000_123] * 2, pa.timestamp("ms")),
        pa.array([1_700_000_000] * 2, pa.uint32()),
    ],
    ids=["seconds", "fraction", "words", "zones", "datetime", "timestamp", "unsigned"],
)
def test_times_of_any_form_become_seconds(times: Any) -> None:
    assert [row["timestamp"] for row in _events(["a"], timestamp=times)] == [1_700_000_000] * 2


@pytest.mark.parametrize("time", ["soon", "", None, "NaT"])
def test_unreadable_times_are_rejected(time: str | None) -> None:
    assert _events(["a"], timestamp=["5", time])[1]["reason"] == cleaning.BAD_TIME


@pytest.mark.parametrize(
    "labels", [[True, False], [1, 0], [1.0, 0.0], ["1", "0"]], ids=["bool", "int", "float", "text"]
)
def test_labels_of_any_form(labels: list[Any]) -> None:
    assert [row["label"] for row in _events(["a"], label=labels)] == [1, 0]


def test_ratings_become_labels_by_threshold() -> None:
    rows = _events(["a"], label=[4.0, 3.5, None, 5.0], positive_threshold=4)
    assert [row["label"] for row in rows] == [1, 0, 0, 1]
    assert [row["reason"] for row in rows] == [None, None, cleaning.NO_RATING, None]


def test_malformed_lines_are_rejected_rows() -> None:
    table = pa.table({"user_id": ["u"], "item_id": ["a"], "timestamp": ["5"], "label": ["1"]})
    batch = RawBatch(3, table, ("too,few",))
    rows = clean_events(batch, Columns(), pa.array(["a"]), positive_threshold=None, oracle=False).to_pylist()
    assert [(row["row"], row["key"], row["reason"]) for row in rows] == [
        (3, None, None),
        (4, "too,few", cleaning.MALFORMED),
    ]


def test_an_invalid_publication_time_is_unknown() -> None:
    raw = [
        {"item_id": name, "title": name, "born": born} for name, born in [("a", 1_600_000_000), ("b", -5), ("c", None)]
    ]
    rows = _items(*raw, columns=Columns(created_at="born"))
    assert [row["created_at"] for row in rows] == [1_600_000_000, None, None]
    assert [row["reason"] for row in rows] == [None, None, None]
    assert _items(raw[0])[0]["created_at"] is None


@pytest.mark.parametrize(
    ("ids", "lossy"),
    [
        (pa.array([2.0**53 - 1, 2.0**53]), [False, True]),
        (pa.array([-(2.0**53), 7.0, None]), [True, False, False]),
        (pa.array([2**53, 2**60]), [False, False]),
        (pa.array(["1.2E+15", "12e5", "a+b", "9007199254740993"]), [True, False, False, False]),
        (pa.array(["1e+7", None]).dictionary_encode(), [True, False]),
    ],
)
def test_ids_that_have_lost_digits_are_rejected(ids: pa.Array, lossy: list[bool]) -> None:
    table = pa.table(
        {"user_id": ids, "item_id": ["i"] * len(ids), "timestamp": [1] * len(ids), "label": [1] * len(ids)}
    )
    rows = clean_events(RawBatch(0, table), Columns(), pa.array(["i"]), positive_threshold=None, oracle=False)
    assert [reason == cleaning.LOSSY_ID for reason in rows["reason"].to_pylist()] == lossy
