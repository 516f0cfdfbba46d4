import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from coldstart.config import UserError
from coldstart.config.recipe import Files
from coldstart.data import cleaning
from coldstart.data.plausibility import check_events, check_splits, check_time_zones, check_users, explain_rejection
from coldstart.data.readers import SourceTable

NOW = 1_700_000_000


def _events(times: Any, labels: Any = (0, 1)) -> pa.Table:
    label = np.resize(np.array(labels, np.int8), len(times))
    return pa.table({"timestamp": pa.array(times, pa.int64()), "label": pa.array(label)})


def _check(events: pa.Table, kind: pa.DataType | None = None, threshold: float | None = None) -> None:
    check_events(events, kind or pa.int64(), Files(positive_threshold=threshold))


def test_usual_events_pass() -> None:
    _check(_events(NOW + np.arange(100)))
    _check(_events(np.arange(100) + 1))
    _check(_events(NOW + np.arange(100)), pa.timestamp("ms"))
    _check(_events(NOW + np.arange(2)), threshold=4)


@pytest.mark.parametrize(
    ("labels", "threshold", "message"),
    [
        ([1], None, "all 30 valid events have label 1: a log of clicks only"),
        ([0], None, "all 30 valid events have label 0: without a click"),
        ([1], 2.5, "label 1 with data.files.positive_threshold 2.5: raise it"),
        ([0], 2.5, "label 0 with data.files.positive_threshold 2.5: lower it"),
    ],
)
def test_one_label_is_refused(labels: list[int], threshold: float | None, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        _check(_events(NOW + np.arange(30), labels), threshold=threshold)


def test_a_log_without_valid_events_is_refused() -> None:
    with pytest.raises(UserError, match="no event is valid"):
        _check(_events(np.zeros(0)))


def test_dates_before_1990_are_refused_only_for_date_columns() -> None:
    early = _events(np.full(30, 1700) + np.arange(30))
    _check(early)
    for kind in (pa.timestamp("ns"), pa.date32()):
        with pytest.raises(UserError, match="before 1990"):
            _check(early, kind)


def test_few_events_show_no_form_of_time() -> None:
    dates = 20_240_101 + np.arange(28)
    with pytest.raises(UserError, match="YYYYMMDD"):
        _check(_events(dates))
    with pytest.raises(UserError, match="YYYYMMDD"):
        _check(_events(dates[:20]))
    _check(_events(dates[:19]))


def test_splits_need_both_labels_and_a_user_with_history() -> None:
    good = {"train": (80, 8), "valid": (10, 1), "test": (10, 9)}
    check_splits(good, 2)
    check_splits(good | {"test": (0, 0)}, 2)
    with pytest.raises(UserError, match=r"10 events of the test split have label 0.*train 80 and 8, valid 10 and 1"):
        check_splits(good | {"test": (10, 0)}, 2)
    with pytest.raises(UserError, match="80 events of the train split have label 1"):
        check_splits(good | {"train": (80, 80)}, 2)
    with pytest.raises(UserError, match="every user has only one event"):
        check_splits(good, 1)


def test_unknown_users_are_refused_if_none_is_known_or_the_spelling_differs() -> None:
    known = pa.array([f"U{n}" for n in range(10)])
    check_users(pa.array(["U1", "x", "y", "z"]), known)
    check_users(known, known)
    with pytest.raises(UserError, match=r"2 of 2 users .* 'x', 'y', the users table has 'U0', 'U1', 'U2': check"):
        check_users(pa.array(["x", "y"]), known)
    with pytest.raises(UserError, match=r"2 of 3 users .* differ in letter case"):
        check_users(pa.array(["U1", "u2", "u3"]), known)
    check_users(pa.array(["U1", "U4", "u2", "u3"]), known)


@pytest.mark.parametrize(
    ("reason", "values", "message"),
    [
        (cleaning.FAR_TIME, ["1700000000000"], "'1700000000000': these look like Unix milliseconds: divide"),
        (cleaning.FAR_TIME, ["20240131235959"], "dates written as numbers (YYYYMMDDhhmmss)"),
        (cleaning.FAR_TIME, ["-5", "0"], "for example '-5', '0': Unix seconds or ISO 8601"),
        (cleaning.BAD_TIME, ["31.01.2024", "1.2.2024"], "for example '31.01.2024', '1.2.2024': Unix seconds or ISO"),
        (cleaning.FUTURE_TIME, ["5000000000"], f"date is {time.strftime('%Y')}"),
        (cleaning.BAD_LABEL, ["-1"], "positive_threshold: 1"),
        (cleaning.NO_RATING, ["like"], "these are words"),
        (cleaning.UNKNOWN_ITEM, ["A1"], "the items table has 'a1', 'a2': they differ in letter case"),
        (cleaning.LOSSY_ID, ["1.5E+19"], "export the ids again"),
        (cleaning.NO_USER, [], ""),
        (cleaning.MALFORMED, ["x"], "for example 'x'"),
    ],
)
def test_rejected_values_are_explained(reason: str, values: list[str], message: str) -> None:
    explained = explain_rejection(reason, values, pa.array(["a1", "a2"]))
    assert message in explained
    assert bool(explained) == bool(message)


def _csv(path: Path, times: list[str]) -> SourceTable:
    path.write_text("at\n" + "\n".join(f'"{time}"' for time in times) + "\n")
    return SourceTable("events", (path,), {"at": pa.string()}, (len(times),))


@pytest.mark.parametrize("zone", ["Z", "+01:00", "-0830", "+05"])
def test_times_with_and_without_a_zone_are_refused(tmp_path: Path, zone: str) -> None:
    local = [f"2024-01-{day:02} 12:00:00" for day in range(1, 29)]
    check_time_zones(_csv(tmp_path / "a.csv", local), "at")
    check_time_zones(_csv(tmp_path / "b.csv", [one + zone for one in local]), "at")
    check_time_zones(_csv(tmp_path / "c.csv", [*local, local[0] + zone]), "at")
    check_time_zones(_csv(tmp_path / "d.csv", [f"2024-01-{day:02}" for day in range(1, 29)]), "at")
    mixed = [*local, *(one + zone for one in local)]
    with pytest.raises(UserError, match=re.escape(f"with a zone ('2024-01-01 12:00:00{zone}'")):
        check_time_zones(_csv(tmp_path / "e.csv", mixed), "at")


def test_zones_of_several_files_are_compared(tmp_path: Path) -> None:
    local = [f"2024-01-{day:02} 12:00:00" for day in range(1, 29)]
    first, second = _csv(tmp_path / "a.csv", local), _csv(tmp_path / "b.csv", [f"{one}Z" for one in local])
    with pytest.raises(UserError, match="convert all to UTC"):
        check_time_zones(SourceTable("events", first.files + second.files, first.types, first.rows + second.rows), "at")
