"""Every line of a CSV file belongs to a record, or the error names it."""

from pathlib import Path

import pytest

from coldstart.config import UserError
from coldstart.config.recipe import Columns, Files
from coldstart.data.csv_records import count_records, read_header
from coldstart.data.readers import check_files, file_splits, read_file_split

HEADER = "user_id,item_id,timestamp,label\n"
ROWS = [f"u{row},a,{row + 1},{row % 2}\n" for row in range(50)]


def tables(root: Path, events: str | bytes, name: str = "events.csv") -> Files:
    (root / "items.csv").write_text('item_id,title\na,"one, or ""two"""\nb,"two\nlines"\n')
    data = events if isinstance(events, bytes) else events.encode()
    (root / name).write_bytes(data)
    return Files(root=root, items="items.csv", events=name, columns=Columns(image=None))


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (HEADER + "".join(ROWS), 50),
        (HEADER + "".join(ROWS).rstrip("\n"), 50),
        (HEADER.replace("\n", "\r\n") + "".join(ROWS).replace("\n", "\r\n"), 50),
        (HEADER.replace("\n", "\r") + "".join(ROWS).replace("\n", "\r"), 50),
        ("\ufeff" + HEADER + "\n\n" + "\n".join(ROWS), 50),
        (HEADER + "u,a,1\n" + "u,a,1,1,1\n" + ROWS[0], 3),
        (HEADER + '"u ""x""","a",1,0\n' + 'u"x,a,2,1\n' + "".join(ROWS), 52),
        (HEADER, 0),
    ],
)
def test_the_two_counts_agree(tmp_path: Path, text: str, count: int) -> None:
    files = tables(tmp_path, text)
    assert count_records(tmp_path / "events.csv", "events") == count
    if not count:
        return
    table = check_files(files).events
    batches = [
        batch for split in file_splits(table) for batch in read_file_split(split, ["user_id", "label"], field="events")
    ]
    assert sum(batch.table.num_rows + len(batch.malformed) for batch in batches) == count


def test_a_cell_of_several_lines_is_one_record(tmp_path: Path) -> None:
    files = tables(tmp_path, HEADER + "".join(ROWS))
    assert check_files(files).items.rows == (2,)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ('u,"a,5,1\n', r"line 12 of .*events\.csv opens a quote that is never closed"),
        ('u,"a,5,1\nu,"b",6,0\n', r"line 12 of .*events\.csv opens a quote that is closed within a cell"),
        ('u,"a\nb",5,1\n', r"line 12 of .*events\.csv opens a quote in column 'item_id' that is closed 1 lines later"),
        ('u,"a \\" b",5,1\n', r"line 12 of .*events\.csv opens a quote that is closed within a cell"),
    ],
)
def test_a_quote_that_swallows_lines_is_named(tmp_path: Path, bad: str, message: str) -> None:
    files = tables(tmp_path, HEADER + "".join(ROWS[:10]) + bad + "".join(ROWS[10:]))
    with pytest.raises(UserError, match=message):
        check_files(files)


def test_a_text_cell_that_swallowed_records_is_named(tmp_path: Path) -> None:
    files = tables(tmp_path, HEADER + "".join(ROWS))
    lines = ["item_id,title,maker", 'a,"one,x', "b,two,y", "c,three,z", 'd,"four,z', "e,five,z"]
    (tmp_path / "items.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=r"line 2 of .*items\.csv opens a quote that is closed within a cell"):
        check_files(files)
    lines[4] = 'd,four",z'
    (tmp_path / "items.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=r"line 2 of .*items\.csv opens a quote in column 'title' .* look like records"):
        check_files(files)
    lines[2:4] = ["a free text, of,", "several, lines, with, commas"]
    (tmp_path / "items.csv").write_text("\n".join(lines) + "\n")
    assert check_files(files).items.rows == (2,)


def test_ids_are_text_however_late_a_letter_comes(tmp_path: Path) -> None:
    rows = [f"{row},{row:09d},{row + 1},1\n" for row in range(70_000)] + ["12345X,1,5,0\n"]
    files = tables(tmp_path, HEADER + "".join(rows))
    (tmp_path / "logs").mkdir()
    for name in "ab":
        (tmp_path / "logs" / f"{name}.csv").write_bytes((tmp_path / "events.csv").read_bytes())
    for events, count in (("events.csv", 1), ("logs", 2)):
        table = check_files(files.model_copy(update={"events": events})).events
        users = [
            user
            for split in file_splits(table)
            for batch in read_file_split(split, ["user_id", "item_id"], field="events")
            for user in batch.table["user_id"].to_pylist()
        ]
        assert len(users) == 70_001 * count
        assert users[-1] == "12345X"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (HEADER.encode() + "ü,a,1,1\n".encode("latin-1"), r"events\.csv is not UTF-8: byte 32 is 0xfc"),
        (HEADER.encode() + b"u,a,1,1\n" * 200_000 + b"\x80", r"not UTF-8: byte 1600032 is 0x80"),
        ((HEADER + ROWS[0]).encode("utf-16"), r"events\.csv is UTF-16, not UTF-8 .*byte 0"),
        ((HEADER + ROWS[0]).encode("utf-16-le"), r"events\.csv has a zero at byte 1 .*UTF-16"),
        ((HEADER + ROWS[0]).encode("utf-16-be"), r"events\.csv has a zero at byte 0 .*UTF-16"),
        ((HEADER + "ü").encode()[:-1], r"not UTF-8: byte 32 is 0xc3"),
        ((HEADER.encode() + "u,é,1,1\n".encode() * 200_000)[:-1] + b"\xff", r"not UTF-8: byte 1800031 is 0xff"),
    ],
)
def test_an_encoding_other_than_utf8_is_named_with_the_byte(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_files(tables(tmp_path, data))


def test_the_header_is_a_record(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text('\ufeff"a ""b""",c\n1,2\n')
    assert read_header(file, "items") == ['a "b"', "c"]
    file.write_text("\n")
    assert read_header(file, "items") == []


@pytest.mark.parametrize("mark", [";", "\t"])
def test_another_delimiter_is_recognized(tmp_path: Path, mark: str) -> None:
    with pytest.raises(UserError, match=r"events\.csv has no column 'user_id': its first line has no comma"):
        check_files(tables(tmp_path, (HEADER + "".join(ROWS)).replace(",", mark)))


def test_a_file_that_changes_after_it_was_counted_is_named(tmp_path: Path) -> None:
    table = check_files(tables(tmp_path, HEADER + "".join(ROWS))).events
    with (tmp_path / "events.csv").open("a") as stream:
        stream.write(ROWS[0])
    with pytest.raises(UserError, match=r"events\.csv has 50 rows, but 51 were read"):
        list(read_file_split(file_splits(table)[0], ["user_id"], field="events"))


def test_a_file_that_lost_lines_after_it_was_counted_is_named(tmp_path: Path) -> None:
    table = check_files(tables(tmp_path, HEADER + "".join(ROWS))).events
    (tmp_path / "events.csv").write_text(HEADER + "".join(ROWS[:-1]))
    with pytest.raises(UserError, match=r"events\.csv has 50 rows, but 49 were read"):
        list(read_file_split(file_splits(table)[0], ["user_id"], field="events"))
