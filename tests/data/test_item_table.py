import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from coldstart.config import UserError
from coldstart.data.item_table import (
    ColumnSpec,
    ItemTable,
    ItemTableWriter,
    check_columns,
    row_dtype,
    specs_of,
    write_item_table,
)

SPECS = {
    "content": ColumnSpec("float32", (4,)),
    "codes": ColumnSpec("int16", (2,)),
    "weight": ColumnSpec("float32", ()),
}


def test_a_table_on_disk_gathers_the_rows_that_were_written(tmp_path: Path) -> None:
    writer = ItemTableWriter(tmp_path / "table", SPECS, 5)
    content = np.arange(8, dtype=np.float32).reshape(2, 4)
    codes = np.array([[1, 2], [3, 4]], np.int16)
    writer.write(np.array([3, 1]), {"content": content, "codes": codes, "weight": np.ones(2, np.float32)})
    writer.close()
    table = ItemTable.open(tmp_path / "table")
    assert len(table) == 5
    assert table.specs == SPECS
    found = table.gather(torch.tensor([[1, 3], [0, 2]]))
    assert found["content"].shape == (2, 2, 4)
    assert torch.equal(found["content"][0], torch.from_numpy(content[[1, 0]]))
    assert torch.equal(found["codes"][0], torch.from_numpy(codes[[1, 0]]))
    assert not found["content"][1].any()
    assert found["weight"].tolist() == [[1.0, 1.0], [0.0, 0.0]]


def test_structured_rows_have_the_columns_of_their_specs() -> None:
    dtype = row_dtype(SPECS)
    assert specs_of(dtype) == SPECS
    rows = np.zeros(2, dtype)
    rows["codes"][1] = [5, 6]
    assert ItemTable.from_rows(rows).specs == SPECS
    assert ItemTable.from_rows(rows).gather(torch.tensor([1]))["codes"].tolist() == [[5, 6]]
    copied = np.frombuffer(rows.tobytes(), dtype)
    assert copied["codes"].tolist() == rows["codes"].tolist()


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="different lengths"):
        ItemTable({"a": torch.zeros(2), "b": torch.zeros(3)})


def test_a_directory_without_a_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no item table at"):
        ItemTable.open(tmp_path)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"content": SPECS["content"]}, r"reads the column 'codes' int16\[2\], but the store has only content"),
        ({**SPECS, "codes": ColumnSpec("int16", (3,))}, r"'codes' as int16\[2\], but the store has int16\[3\]"),
        ({**SPECS, "codes": ColumnSpec("int32", (2,))}, r"has int32\[2\]"),
    ],
)
def test_missing_and_other_columns_are_refused_by_name(found: dict[str, ColumnSpec], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_columns(found, SPECS, table="the store", reader="SaviorRec")


def test_more_columns_than_needed_are_fine() -> None:
    check_columns({**SPECS, "other": ColumnSpec("float32", ())}, SPECS, table="the store", reader="a scorer")


def test_a_process_holds_only_the_rows_that_it_touches(tmp_path: Path) -> None:
    """The table has 256 MB; a process that reads 1,000 of its rows grows by a small part of that."""
    rows, width = 500_000, 128
    writer = ItemTableWriter(tmp_path / "table", {"content": ColumnSpec("float32", (width,))}, rows)
    writer.write(np.arange(0, rows, 1000), {"content": np.ones((rows // 1000, width), np.float32)})
    writer.close()
    program = (
        "import resource, sys, torch; from pathlib import Path; from coldstart.data.item_table import ItemTable\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak(); table = ItemTable.open(Path(sys.argv[1]))\n"
        f"found = table.gather(torch.arange(0, {rows}, 500))['content']\n"
        "print(int(found.sum()), peak() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "table")], capture_output=True, text=True, check=True
    )
    total, grown_kib = map(int, done.stdout.split())
    assert total == rows // 1000 * width
    assert grown_kib * 1024 < rows * width * 4 / 4


def test_a_table_in_memory_can_be_written(tmp_path: Path) -> None:
    write_item_table(tmp_path / "table", {"content": np.ones((3, 2), np.float32)})
    assert ItemTable.open(tmp_path / "table").columns["content"].tolist() == [[1, 1]] * 3
