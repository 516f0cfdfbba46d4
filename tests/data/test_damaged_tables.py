"""Random tables with random damage: the accounts of all rows balance, or a UserError names a file or column."""

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest

from coldstart.config import UserError
from coldstart.config.recipe import Columns, Data, Files
from coldstart.data.deep_check import check_all_rows

ODD_TYPES = (
    lambda values: pa.array([str(value) for value in values], pa.string_view()),
    lambda values: pa.array([str(value).encode() for value in values], pa.binary()),
    lambda values: pa.array([str(value) for value in values]).dictionary_encode(),
    lambda values: pa.array([[str(value)] for value in values]),
    lambda values: pa.array([{"bytes": str(value).encode(), "path": None} for value in values]),
    lambda values: pa.array([{"a": str(value)} for value in values]),
    lambda values: pa.array([float(len(str(value))) for value in values]),
    lambda values: pa.array([bytes(16) for _ in values], pa.uuid()),
    lambda values: pa.array([True for _ in values]),
    lambda values: pa.nulls(len(values)),
    lambda values: pa.array([b"\xff" for _ in values], pa.binary()),
    lambda values: pa.array(list(range(len(values))), pa.timestamp("ns")),
    lambda values: pa.array(list(range(len(values))), pa.duration("s")),
)
CELLS = ("", '"', "\u2028", "é", "1e400", "nan", "9" * 30, "\t", "a,b", "'", "-1", "2024-13-45", "null")


def good_tables(chance: random.Random) -> dict[str, dict[str, list[Any]]]:
    items, events = chance.randint(1, 9), chance.choice((1, 60, 90, 120))
    return {
        "items": {"item_id": [f"i{row}" for row in range(items)], "title": [f"Item {row}" for row in range(items)]},
        "events": {
            "user_id": [f"u{chance.randint(0, 4)}" for _ in range(events)],
            "item_id": [f"i{chance.randrange(items)}" for _ in range(events)],
            "timestamp": [chance.randint(1, 1000) for _ in range(events)],
            "label": [chance.randint(0, 1) for _ in range(events)],
        },
    }


def damaged_table(columns: dict[str, list[Any]], chance: random.Random) -> pa.Table:
    table = pa.table(columns)
    for _ in range(chance.choice((0, 0, 1, 2))):
        index = chance.randrange(table.num_columns)
        name, values = table.column_names[index], table.column(index).to_pylist()
        what = chance.randrange(5)
        if what == 0:
            table = table.set_column(index, name, chance.choice(ODD_TYPES)(values))
        elif what == 1:
            table = table.append_column(chance.choice((name, "more")), pa.array(values))
        elif what == 2:
            order = chance.sample(range(table.num_columns), chance.choice((table.num_columns, table.num_columns - 1)))
            table = table.select(order or [0])
        elif what == 3:
            start = chance.randrange(len(table))
            table = pa.concat_tables([table.slice(start), table.slice(0, chance.choice((start, 0)))])
        else:
            cells = [chance.choice((*CELLS, None, value, value, value)) for value in map(str, values)]
            table = table.set_column(index, name, pa.array(cells, pa.string()))
    return table


def damaged_bytes(data: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(data) + 1)
    return chance.choice(
        (
            data[:place],
            data[:place] + chance.choice((b'"', b"\xff", b"\0", b"\n", b"\r", b",", b"PAR1")) + data[place:],
            data[:place] + bytes(chance.randrange(256) for _ in range(5)) + data[place + 5 :],
            data.decode("latin-1").encode("utf-16"),
            data + data,
            b"",
        )
    )


def write(root: Path, chance: random.Random) -> None:
    for name, columns in good_tables(chance).items():
        (root / name).mkdir()
        suffix = chance.choice(("csv", "parquet"))
        for part in range(chance.randint(1, 2)):
            file = root / name / f"{part}.{suffix}"
            table = damaged_table(columns, chance)
            try:
                if suffix == "csv":
                    csv.write_csv(table, file)
                else:
                    pq.write_table(table, file, row_group_size=chance.choice((7, 1000)))
            except (pa.ArrowException, ValueError):  # Arrow cannot write this type as CSV
                csv.write_csv(pa.table(columns), file.with_suffix(".csv"))
            if file.exists() and not chance.randrange(3):
                file.write_bytes(damaged_bytes(file.read_bytes(), chance))


def check(root: Path, seed: int) -> bool:
    """Whether the tables of a seed are usable. Any exception but a `UserError` fails the test."""
    write(root, random.Random(seed))
    files = Files(root=root, items="items", events="events", columns=Columns(image=None))
    refused = ""
    try:
        report = check_all_rows(Data(source="files", files=files, max_rejected_fraction=0.9))
    except UserError as error:
        refused = str(error)
    if refused:
        words = (str(root), "data.files.columns", "rows of the", "split")
        assert any(word in refused for word in words), f"seed {seed}: {refused}"
        return False
    for accounts in report.details["files"].values():
        for one in accounts:
            assert one["rows"] == one["used"] + one["merged"] + one["excluded"] + one["quarantined"]
    return True


@pytest.mark.parametrize("start", [0, 20])
def test_damaged_tables_are_accounted_for_or_refused(tmp_path: Path, start: int) -> None:
    usable = []
    for seed in range(start, start + 20):
        (tmp_path / str(seed)).mkdir()
        usable.append(check(tmp_path / str(seed), seed))
    assert sum(usable) > 2
    assert not all(usable)


@pytest.mark.slow
def test_a_thousand_damaged_tables(tmp_path: Path) -> None:
    usable, faults = 0, []
    for seed in range(100, 1100):
        (tmp_path / str(seed)).mkdir()
        try:
            usable += check(tmp_path / str(seed), seed)
        except Exception as error:
            faults.append(f"seed {seed}: {type(error).__name__}: {error}")
    assert not faults
    assert 100 < usable < 900
