"""Values of a user's tables that can be read but cannot be meant, through prepare."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from coldstart.config import MetricsLog, Recipe, UserError
from coldstart.data.cleaning import (
    CONFLICTING_ITEM,
    CONFLICTING_USER,
    FUTURE_TIME,
    MERGED_EVENT,
    REPEATED_EVENT,
    REPEATED_ITEM,
    REPEATED_USER,
)
from coldstart.data.dataset import Dataset
from coldstart.jobs.stages import prepare

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]
ITEMS, USERS, EVENTS = 40, 30, 1200
START = 1_700_000_000


def _png(color: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(stream, "PNG")
    return stream.getvalue()


PNG, GREEN = _png("red"), _png("green")


def _events() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "user_id": [f"U{n:03}" for n in rng.integers(0, USERS, EVENTS)],
            "item_id": [f"AB-{n:03}" for n in rng.integers(0, ITEMS, EVENTS)],
            "timestamp": START + 600 * np.arange(EVENTS),
            "label": rng.integers(0, 2, EVENTS),
        }
    )


def _prepare(root: Path, events: pd.DataFrame, suffix: str = "parquet", **files: Any) -> pd.DataFrame:
    """Runs prepare on the events; returns the events of the dataset, with the artifact as an attribute."""
    items = pd.DataFrame(
        {"item_id": [f"AB-{n:03}" for n in range(ITEMS)], "title": [f"film {n}" for n in range(ITEMS)]}
    )
    files.pop("items", items).to_parquet(root / "items.parquet")
    limit = {"max_rejected_fraction": files.pop("max_rejected_fraction", 0.05)} | files.pop("data", {})
    if suffix == "csv":
        events.to_csv(root / "events.csv", index=False)
    else:
        events.to_parquet(root / "events.parquet")
    columns = {"image": None} | files.pop("columns", {})
    data = {
        "source": "files",
        "files": {"root": root, "events": f"events.{suffix}", "columns": columns} | files,
    } | limit
    artifact = prepare.run(Recipe.model_validate({"name": "values", "paths": {"runs": root / "runs"}, "data": data}))
    sequences = Dataset(artifact).sequences
    frame = pd.DataFrame({name: getattr(sequences, name) for name in ("item_idx", "label", "timestamp")})
    frame.attrs["quarantine"] = pd.read_parquet(artifact.path / "quarantine")
    frame.attrs["items"] = Dataset(artifact).items().to_pandas()
    frame.attrs["metadata"] = artifact.metadata
    return frame


def test_a_click_after_its_impression_of_the_same_second_stays_a_click(tmp_path: Path) -> None:
    clicks = _events()
    impressions = clicks[clicks.label == 1].assign(label=0)
    both = pd.concat([impressions, clicks, clicks[:3]], ignore_index=True)
    prepared = _prepare(tmp_path, both)
    assert len(prepared) == EVENTS
    assert prepared.label.sum() == clicks.label.sum()
    reasons = prepared.attrs["metadata"]["quarantined"]["events"]
    # Half of the rows are merged, and the limit for rejected ones is 5 %.
    assert reasons == {MERGED_EVENT: len(impressions), REPEATED_EVENT: 3}
    assert len(prepared) + sum(reasons.values()) == len(both)
    merged = prepared.attrs["quarantine"].query("reason == @MERGED_EVENT")
    assert merged.row.tolist() == list(range(len(impressions)))


def test_a_log_of_clicks_gets_negatives_and_every_row_stays_accounted(tmp_path: Path) -> None:
    clicks = _events().drop(columns="label")
    settings = {"negatives": {"per_click": 2}, "split": {"valid": 0.2, "test": 0.2}}
    prepared = _prepare(tmp_path, clicks, columns={"label": None}, data=settings)
    metadata = prepared.attrs["metadata"]
    assert prepared.label.sum() == len(clicks)
    assert metadata["drawn_negatives"] == len(prepared) - len(clicks) > len(clicks)
    assert metadata["events"] == len(prepared)
    assert metadata["excluded_events"] == 0
    assert all(0 < split["clicks"] < split["events"] for split in metadata["splits"].values())
    lines = MetricsLog(tmp_path / "runs" / "values" / "metrics" / "prepare.jsonl").read()
    assert any(f"negatives drawn for {len(clicks)} clicks" in line.get("note", "") for line in lines)
    again = _prepare(tmp_path, clicks, columns={"label": None}, data=settings)
    pd.testing.assert_frame_equal(again, prepared)


def _zoned(events: pd.DataFrame) -> Iterator[tuple[pd.Timestamp, str]]:
    for row, time in enumerate(pd.to_datetime(events.timestamp, unit="s")):
        yield time, "" if row % 4 == 1 else "+01:00"


REFUSED: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], str]] = {
    "clicks only": (
        lambda e: e.assign(label=1),
        r"all 1200 valid events have label 1: .*data\.negatives: \{per_click: 4\}",
    ),
    "no click": (lambda e: e.assign(label=0), r"all 1200 valid events have label 0: without a click"),
    "clicks in train only": (
        lambda e: e.assign(label=np.where(np.arange(EVENTS) < 900, e.label, 0)),
        r"all 240 events of the test split have label 0|all 120 events of the valid split have label 0",
    ),
    "one event per user": (
        lambda e: e.assign(user_id=[f"s{n}" for n in range(EVENTS)]),
        "every user has only one event.*sessions",
    ),
    "words": (
        lambda e: e.assign(label=e.label.map({0: "view", 1: "click"})),
        r"1200 of 1200 rows of the events table were rejected.*for example '(view|click)', '(view|click)': these are "
        "words: write 1",
    ),
    "signs": (lambda e: e.assign(label=2 * e.label - 1), r"example '-1': these are signs: .*positive_threshold: 1"),
    "fractions": (lambda e: e.assign(label=e.label * 0.5 + 0.25), r"example '0.\d+', '0.\d+': these are fractions"),
    "milliseconds": (
        lambda e: e.assign(timestamp=e.timestamp * 1000),
        "'1700000000000', '1700000600000', '1700001200000': these look like Unix milliseconds: divide them by 1000",
    ),
    "dates as numbers": (
        lambda e: e.assign(timestamp=[int(f"2024{1 + n // 100:02}{1 + n % 28:02}") for n in range(EVENTS)]),
        r"'20240101', '20240102', '20240103' and most others look like dates written as numbers \(YYYYMMDD\)",
    ),
    "days of a spreadsheet": (
        lambda e: e.assign(timestamp=45_000 + np.arange(EVENTS) / 10),
        "'45000', '45001', '45002' and most others look like days of a spreadsheet",
    ),
    "numbers converted with a wrong unit": (
        lambda e: e.assign(timestamp=pd.to_datetime(e.timestamp * 1000)),
        r"most events are before 1990 \(median 1970-01-01.*unit='s'",
    ),
    "zones": (
        lambda e: e.assign(timestamp=[f"{one:%Y-%m-%dT%H:%M:%S}{zone}" for one, zone in _zoned(e)]),
        r"a zone \('2023-11-14T22:13:20\+01:00', .*\) and without one \('2023-11-14T22:23:20', .*convert all to UTC",
    ),
    "days first": (
        lambda e: e.assign(timestamp=pd.to_datetime(e.timestamp, unit="s").dt.strftime("%d/%m/%Y %H:%M")),
        r"for example '14/11/2023 22:13', .*: Unix seconds or ISO 8601 text",
    ),
    "future": (
        lambda e: e.assign(timestamp=e.timestamp + 3 * 10**9),
        rf"reason \(1200 rows\): {FUTURE_TIME}; for example '4700000000'.*this machine's date",
    ),
    "letter case": (
        lambda e: e.assign(item_id=e.item_id.str.lower()),
        r"events name 'ab-0\d+', .*, the items table has 'AB-000', 'AB-001', 'AB-002': they differ in letter case",
    ),
    "zero padding": (
        lambda e: e.assign(item_id=[f"AB-{int(one[3:])}" for one in e.item_id]),
        r"events name 'AB-\d+', .* the items table has 'AB-000'.* differ in leading zeros",
    ),
    "prefix": (
        lambda e: e.assign(item_id="sku:" + e.item_id.str[3:]),
        r"events name 'sku:0.* the items table has 'AB-000'.* differ in a prefix",
    ),
    "lossy ids": (
        lambda e: e.assign(user_id=2.0**60 + 1000.0 * np.arange(EVENTS)),
        r"id has lost digits.*for example '1\.15\d+e\+18'.*export the ids again",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_values_that_cannot_be_meant_are_refused_with_evidence(tmp_path: Path, case: str) -> None:
    damage, message = REFUSED[case]
    for suffix in ("parquet", "csv"):
        if suffix == "csv" and case == "numbers converted with a wrong unit":
            continue
        with pytest.raises(UserError, match=message):
            _prepare(tmp_path, damage(_events()), suffix)
    assert not (tmp_path / "runs" / "values" / "dataset").exists()


def test_single_bad_values_stay_in_quarantine(tmp_path: Path) -> None:
    events = _events().astype({"label": object, "timestamp": object})
    events.loc[0, "timestamp"] = START * 1000
    events.loc[1, "timestamp"] = START + 3 * 10**9
    events.loc[2, "label"] = "click"
    events.loc[3, "item_id"] = "ab-001"
    events.loc[4, "item_id"] = "1.23E+12"
    prepared = _prepare(tmp_path, events, "csv")
    assert len(prepared) == EVENTS - 5
    quarantine = prepared.attrs["quarantine"]
    assert quarantine.row.tolist() == [0, 1, 2, 3, 4]
    assert quarantine.reason.nunique() == 5
    assert prepared.timestamp.max() < START + 10**9


def test_signs_become_labels_by_threshold(tmp_path: Path) -> None:
    events = _events()
    prepared = _prepare(tmp_path, events.assign(label=2 * events.label - 1), positive_threshold=1)
    assert prepared.label.sum() == events.label.sum()


@pytest.mark.parametrize(("threshold", "advice"), [(9, "lower it"), (-5, "raise it")])
def test_a_threshold_that_separates_nothing_is_refused(tmp_path: Path, threshold: float, advice: str) -> None:
    with pytest.raises(UserError, match=f"positive_threshold {threshold:g}: {advice}"):
        _prepare(tmp_path, _events(), positive_threshold=threshold)


def test_conflicting_rows_of_an_id_are_counted_under_their_own_name(tmp_path: Path) -> None:
    users = pd.DataFrame({"user_id": [f"U{n:03}" for n in range(USERS)], "age": np.arange(USERS)})
    pd.concat([users, users[:1], users[1:2].assign(age=90)]).to_parquet(tmp_path / "users.parquet")
    items = pd.DataFrame({"item_id": [f"AB-{n:03}" for n in range(ITEMS)], "title": "film", "image": [PNG] * ITEMS})
    again = [
        items[:1],
        items[1:2].assign(title="other"),
        items[2:3].assign(image=[GREEN]),
        items[3:4].assign(image=None),
    ]
    prepared = _prepare(
        tmp_path,
        _events(),
        items=pd.concat([items, *again], ignore_index=True),
        users="users.parquet",
        columns={"user_features": ["age"], "image": "image"},
        max_rejected_fraction=0.1,
    )
    quarantined = prepared.attrs["metadata"]["quarantined"]
    assert quarantined["items"] == {CONFLICTING_ITEM: 3, REPEATED_ITEM: 1}
    assert quarantined["users"] == {CONFLICTING_USER: 1, REPEATED_USER: 1}
    kept = prepared.attrs["items"]
    assert set(kept.title) == {"film"}
    assert set(kept.image) == {PNG}


def test_users_of_another_spelling_are_refused(tmp_path: Path) -> None:
    users = pd.DataFrame({"user_id": [f"u{n:03}" for n in range(USERS)], "age": np.arange(USERS)})
    users.to_parquet(tmp_path / "users.parquet")
    with pytest.raises(UserError, match=r"30 of 30 users .* 'U0\d\d'.* 'u000', 'u001', 'u002': .* letter case"):
        _prepare(tmp_path, _events(), users="users.parquet", columns={"user_features": ["age"]})
