"""The rows of every file are used, merged, excluded or in quarantine."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from coldstart.config import UserError
from coldstart.data.accounting import Accounting, FileAccount, as_json, rows_per_file, summary
from coldstart.data.cleaning import BAD_TIME, REPEATED_EVENT
from coldstart.data.quarantine import Quarantine
from coldstart.data.readers import SourceTable, Tables
from coldstart.data.table_files import SkippedFile

ROOT = Path("/data")
EVENTS = SourceTable(
    "events",
    tuple(ROOT / f"logs/{name}.csv" for name in "abc"),
    {},
    (5, 0, 4),
    (SkippedFile(ROOT / "logs/_SUCCESS", "name starts with '.' or '_'"),),
)
ITEMS = SourceTable("items", (ROOT / "items.csv",), {}, (3,))


def quarantine() -> Quarantine:
    rejected = Quarantine(1.0)
    rows = {"row": [1, 6, 8], "key": ["k"] * 3, "reason": [BAD_TIME, REPEATED_EVENT, BAD_TIME]}
    rejected.add("events", pa.table(rows), 9)
    rejected.add("items", pa.table({"row": [0, 1], "key": ["a", "b"], "reason": ["no image", "no id"]}), 3)
    return rejected


def accounting(used: tuple[int, ...] = (3, 0, 2), excluded: tuple[int, ...] = (1, 0, 0)) -> Accounting:
    counts = Accounting(Tables(ITEMS, EVENTS), ROOT)
    counts.use("items", pa.chunked_array([[0, 2]]))
    counts.use_counts("events", np.array(used), np.array(excluded))
    return counts


def test_rows_of_every_file_add_up() -> None:
    accounts = accounting().balance(quarantine().rows)
    assert accounts["items"] == [FileAccount("items.csv", 3, 2, 0, 0, 1)]
    assert accounts["events"] == [
        FileAccount("logs/a.csv", 5, 3, 0, 1, 1),
        FileAccount("logs/b.csv", 0, 0, 0, 0, 0),
        FileAccount("logs/c.csv", 4, 2, 1, 0, 1),
    ]
    lines = list(summary(accounts, Tables(ITEMS, EVENTS), ROOT))
    assert lines[0] == "items: items.csv: 3 rows = 2 used + 1 quarantined"
    assert lines[1] == "events: logs/a.csv: 5 rows = 3 used + 1 excluded + 1 quarantined"
    assert lines[-1] == "events: logs/_SUCCESS is skipped: name starts with '.' or '_'"
    assert as_json(accounts, Tables(ITEMS, EVENTS), ROOT)["files"]["events"][2]["merged"] == 1


@pytest.mark.parametrize(
    ("used", "message"),
    [
        ((2, 0, 2), r"events: /data/logs/a\.csv has 5 rows, but 4 are accounted for \(2 used \+ 1 excluded"),
        ((3, 1, 2), r"logs/b\.csv has 0 rows, but 1 are"),
        ((3, 0, 3), r"logs/c\.csv has 4 rows, but 5 are"),
    ],
)
def test_a_mismatch_names_the_file(used: tuple[int, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        accounting(used).balance(quarantine().rows)


def test_rows_are_counted_by_file() -> None:
    assert rows_per_file(EVENTS, np.array([0, 4, 5, 8, 8])).tolist() == [2, 0, 3]
    with pytest.raises(UserError, match=r"c\.csv yields more rows"):
        rows_per_file(EVENTS, np.array([9]))


def test_many_files_are_summed_up() -> None:
    files = tuple(ROOT / f"{number:02d}.csv" for number in range(12))
    events = SourceTable("events", files, {}, (2,) * 12)
    accounts = {"items": [], "events": [FileAccount(file.name, 2, 2, 0, 0, 0) for file in files]}
    lines = list(summary(accounts, Tables(ITEMS, events), ROOT))
    assert len(lines) == 10
    assert lines[-1] == "events: 3 more files: 6 rows = 6 used"
