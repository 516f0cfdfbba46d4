"""Every file below a table's directory is read, or skipped with a reason."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coldstart.config import UserError
from coldstart.data import table_files
from coldstart.data.table_files import find_files

TABLE = pa.table({"a": [1]})


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(TABLE, path)
    return path


def test_files_are_read_or_skipped_with_the_reason(tmp_path: Path) -> None:
    logs, far = tmp_path / ".cache" / "logs", tmp_path / "far"
    read = [write(logs / "a.parquet"), write(logs / "day=1" / "B.PARQUET")]
    write(far / "c.parquet")
    (logs / "z").symlink_to(far)
    (logs / "link.parquet").symlink_to(read[0])
    read += [logs / "z" / "c.parquet", logs / "link.parquet"]
    expected = {}
    for name, reason in (
        (".a.parquet.crc", table_files.HIDDEN),
        ("_SUCCESS", table_files.HIDDEN),
        ("_temporary", table_files.HIDDEN),
        ("notes.txt", table_files.OTHER_FORMAT),
        ("a.csv.gz", table_files.OTHER_FORMAT),
        ("empty.parquet", table_files.EMPTY),
    ):
        (logs / name).write_bytes(b"" if reason == table_files.EMPTY else b"x")
        expected[name] = reason
    (logs / "_temporary").unlink()
    write(logs / "_temporary" / "0" / "part.parquet")
    (logs / "gone.parquet").symlink_to(tmp_path / "nowhere.parquet")
    (logs / "day=1" / "again").symlink_to(logs)
    os.mkfifo(logs / "pipe.csv")
    expected |= {"gone.parquet": table_files.BROKEN_LINK, "pipe.csv": table_files.NOT_A_FILE}
    expected |= {"day=1/again": table_files.LOOP}
    found, skipped = find_files(tmp_path, ".cache/logs", "events")
    assert found == tuple(sorted(read))
    assert {str(one.path.relative_to(logs)): one.reason for one in skipped} == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing.parquet", "does not exist"),
        ("empty.csv", "is empty, so it has no rows"),
        ("gone.csv", "link that does not resolve: it points to nowhere"),
        ("a.json", "must be a .parquet file"),
        ("logs", r"no \.parquet or \.csv file to read; a\.csv\.gz: neither \.parquet nor \.csv"),
        ("both", "both Parquet and CSV"),
    ],
)
def test_a_table_without_files_is_named(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty.csv").touch()
    (tmp_path / "gone.csv").symlink_to("nowhere")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a.csv.gz").write_bytes(b"x")
    write(tmp_path / "both" / "a.parquet")
    (tmp_path / "both" / "b.csv").write_text("a\n1\n")
    with pytest.raises(UserError, match=rf"data\.files\.events: .*{message}"):
        find_files(tmp_path, name, "events")
