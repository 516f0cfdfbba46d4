"""Images that are named by paths and addresses: real files, a real web server, a real S3."""

import io
import os
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from PIL import Image

from coldstart.config import UserError
from coldstart.config.recipe import Columns, Files, Images
from coldstart.data import image_files
from coldstart.data.cleaning import clean_items, with_digests
from coldstart.data.image_files import ImageFiles
from coldstart.data.readers import RawBatch, _small_batches, check_files, clean_file_split, file_splits


def png(color: str = "red") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), color).save(stream, "PNG")
    return stream.getvalue()


def images(root: Path, **settings: Any) -> ImageFiles:
    return ImageFiles.of(Files(root=root, images=Images(**settings)))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Images under `root`; `outside.png` lies beside it."""
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    for name in ("a.png", "a b.png", "été 100%.png", "sub/b.png"):
        (root / name).write_bytes(name.encode())
    (tmp_path / "outside.png").write_bytes(b"secret")
    (tmp_path / "root2").mkdir()
    (tmp_path / "root2" / "c.png").write_bytes(b"secret")
    return root


def test_paths_and_file_addresses_under_the_root_are_read(root: Path) -> None:
    (root / "link.png").symlink_to("sub/b.png")
    names = {
        "a.png": b"a.png",
        "./sub/../a.png": b"a.png",
        str(root / "a.png"): b"a.png",
        "a b.png": b"a b.png",
        "été 100%.png": "été 100%.png".encode(),
        (root / "été 100%.png").as_uri(): "été 100%.png".encode(),
        f"FILE://localhost{root}/a%20b.png": b"a b.png",
        f"file:{root}/a.png": b"a.png",
        "link.png": b"sub/b.png",
    }
    assert images(root).read(list(names), 100) == list(names.values())
    assert images(root).read([], 100) == []
    assert images(root).read(["sub/b.png", "a.png", "sub/b.png"], 100) == [b"sub/b.png", b"a.png", b"sub/b.png"]


def test_nothing_outside_the_root_is_read(root: Path) -> None:
    outside = root.parent / "outside.png"
    (root / "link.png").symlink_to(outside)
    (root / "up").symlink_to(root.parent, target_is_directory=True)
    names = ["../outside.png", "sub/../../outside.png", str(outside), outside.as_uri(), "link.png", "up/outside.png"]
    names += [str(root.parent / "root2" / "c.png"), "../root2/c.png", "/etc/hostname", "../nothing-is-here.png"]
    names += [f"file://{root}/%2e%2e/outside.png"]
    assert images(root).read(names, 100) == [image_files.OUTSIDE] * len(names)
    assert images(root).problem("link.png") == image_files.OUTSIDE


def test_a_link_to_the_root_is_followed(root: Path) -> None:
    link = root.parent / "link"
    link.symlink_to(root, target_is_directory=True)
    assert images(link).read(["a.png", str(root / "a.png"), "../outside.png"], 100) == [
        b"a.png",
        b"a.png",
        image_files.OUTSIDE,
    ]


def test_what_cannot_be_read_has_a_reason(root: Path) -> None:
    (root / "empty.png").touch()
    (root / "loop.png").symlink_to("loop.png")
    os.mkfifo(root / "pipe.png")
    expected = {
        "none.png": image_files.MISSING,
        "a.png/b.png": image_files.MISSING,
        "loop.png": image_files.MISSING,
        "x\0y": image_files.MISSING,
        "file:///%00": image_files.MISSING,
        "iVBORw0KGgo" * 100: image_files.MISSING,
        "sub": image_files.NOT_A_FILE,
        ".": image_files.NOT_A_FILE,
        "pipe.png": image_files.NOT_A_FILE,
        "empty.png": image_files.EMPTY,
        "file://images/a.png": image_files.BAD_ADDRESS,
        "https://example.com/a.png": image_files.WEB_ADDRESS,
        "HTTP://example.com/a.png": image_files.WEB_ADDRESS,
        "data:image/png;base64,iVBORw0KGgo": image_files.OTHER_SCHEME,
        "ftp://example.com/a.png": image_files.OTHER_SCHEME,
        "s3://": image_files.BAD_ADDRESS,
        "s3://bucket": image_files.BAD_ADDRESS,
        "s3://key:secret@bucket/a.png": image_files.BAD_ADDRESS,
        "s3://bucket?endpoint_override=localhost/a.png": image_files.BAD_ADDRESS,
    }
    assert dict(zip(expected, images(root).read(list(expected), 100), strict=True)) == expected
    for name in ("none.png", "pipe.png", "https://example.com/a.png", "ftp://example.com/a.png"):
        assert images(root).problem(name) == expected[name]
    assert images(root).problem("a.png") is None
    assert images(root).problem("s3://bucket/a.png") is None
    assert images(root, http=True).problem("https://example.com/a.png") is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission_is_named_so(root: Path) -> None:
    (root / "a.png").chmod(0)
    assert images(root).read(["a.png"], 100) == [image_files.DENIED]


def test_a_file_of_more_bytes_than_allowed_is_not_read(root: Path) -> None:
    (root / "large.png").write_bytes(bytes(101))
    (root / "fits.png").write_bytes(bytes(100))
    too_large, fits = images(root).read(["large.png", "fits.png"], 100)
    assert too_large == "image has more than 100 bytes (data.max_image_bytes)"
    assert fits == bytes(100)


def test_an_instance_travels_to_tasks_also_after_it_has_read(root: Path) -> None:
    reader = images(root)
    assert reader.read(["a.png"], 100) == [b"a.png"]
    copy = pickle.loads(pickle.dumps(reader))
    assert copy == reader
    assert copy.read(["a.png"], 100) == [b"a.png"]


def test_the_root_of_images_is_that_of_the_tables_by_default(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    for files in (Files(), Files(root=Path("nowhere"), images=Images(root=Path("."))), Files(root=root / "sub" / "..")):
        reader = ImageFiles.of(files)
        assert reader.root.is_absolute()
        assert reader.read(["a.png"], 100) == [b"a.png"]
    assert ImageFiles.of(Files(images=Images(root=Path("sub")))).read(["b.png"], 100) == [b"sub/b.png"]


ROWS = ["red.png", "none.png", None, " ", "large.png", "broken.png", "red.png"]


def clean(root: Path, **columns: Any) -> list[dict[str, Any]]:
    (root / "red.png").write_bytes(png())
    (root / "large.png").write_bytes(bytes(5001))
    (root / "broken.png").write_bytes(b"?")
    batch = RawBatch(10, pa.table(columns), ("too,few",))
    return clean_items(batch, Columns(), images(root), max_bytes=5000, max_pixels=100).to_pylist()


def test_items_have_the_images_that_their_rows_name(root: Path) -> None:
    names = [str(row) for row in range(7)]
    rows = clean(root, item_id=names, title=[*names[:6], None], image=ROWS)
    assert [row["row"] for row in rows] == list(range(10, 18))
    assert [row["image"] for row in rows] == [png(), *[None] * 5, png(), None]
    reasons = [row["reason"] for row in rows]
    kept = "; the item is kept without its image"
    assert reasons[:4] == [None, image_files.MISSING + kept, None, None]
    assert reasons[4] == "image has more than 5000 bytes (data.max_image_bytes)" + kept
    assert reasons[5].startswith("image is not a JPEG")
    assert [row["value"] for row in rows] == [None, "none.png", None, None, "large.png", "broken.png", None, None]
    assert all(row["item_id"] for row in rows[:7])


def test_an_item_of_which_only_the_missing_image_is_known_is_rejected(root: Path) -> None:
    [row, _] = clean(root, item_id=["a"], title=[None], image=["none.png"])
    assert (row["item_id"], row["reason"], row["value"]) == (None, image_files.MISSING, "none.png")


def test_bytes_and_paths_may_be_mixed(root: Path) -> None:
    column = [{"bytes": png("blue"), "path": "none.png"}, {"bytes": None, "path": "red.png"}, None]
    rows = clean(root, item_id=[*"abc"], title=[*"abc"], image=column)
    assert [row["image"] for row in rows[:3]] == [png("blue"), png(), None]
    assert [row["reason"] for row in rows[:3]] == [None] * 3


def test_rows_with_the_same_image_are_equal_whatever_its_name(root: Path) -> None:
    (root / "copy.png").write_bytes(png())
    column = [{"bytes": None, "path": "red.png"}, {"bytes": None, "path": "copy.png"}, {"bytes": png(), "path": None}]
    column += [{"bytes": None, "path": "none.png"}, {"bytes": None, "path": "nothing.png"}, None]
    table = pa.Table.from_pylist(clean(root, item_id=["a"] * 6, title=["t"] * 6, image=column)[:6])
    digests = with_digests(table)["digest"].to_pylist()
    assert len(set(digests[:3])) == len(set(digests[3:])) == 1
    assert digests[0] != digests[3]


def write_tables(root: Path, items: str) -> Files:
    (root / "items.csv").write_text(items, encoding="utf-8")
    (root / "events.csv").write_text("user_id,item_id,timestamp,label\nu,1,5,1\nu,1,6,0\n")
    return Files(root=root, items="items.csv", events="events.csv")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_rows_that_name_images_are_cleaned_in_small_batches(root: Path, suffix: str) -> None:
    count = 300
    lines = "".join(f"{row},t{row},a.png\n" for row in range(count))
    files = write_tables(root, "item_id,title,image\n" + lines + "x,y\n" * (suffix == "csv"))
    if suffix == "parquet":
        table = pa.csv.read_csv(root / "items.csv")
        pa.parquet.write_table(table, root / "items.parquet")
        files = files.model_copy(update={"items": "items.parquet"})
    table = check_files(files).items
    [split] = file_splits(table)
    batches: list[RawBatch] = []

    def keep(batch: RawBatch) -> pa.Table:
        batches.append(batch)
        return batch.table

    parts = list(clean_file_split(split, table.columns, keep, table.wanted, field="items"))
    assert max(len(part) for part in parts) <= 128
    assert [row for part in parts for row in part["item_id"].to_pylist()] == [
        row if suffix == "parquet" else str(row) for row in range(count)
    ]
    numbers = [batch.first_row + row for batch in batches for row in range(batch.table.num_rows)]
    assert numbers == list(range(count))
    assert [line for batch in batches for line in batch.malformed] == ["x,y"] * (suffix == "csv")


def test_malformed_lines_follow_the_last_of_the_small_batches() -> None:
    batch = RawBatch(5, pa.table({"image": ["a.png"] * 256}), ("x,y",))
    parts = [(one.first_row, one.table.num_rows, one.malformed) for one in _small_batches([batch], ["image"])]
    assert parts == [(5, 128, ()), (133, 128, ("x,y",))]
    assert list(_small_batches([batch], [])) == [batch]


def test_a_wrong_root_is_found_before_anything_is_read(root: Path) -> None:
    lines = "item_id,title,image\n1,one,\n2,two,nope/é.png\n3,three,nope/2.png\n"
    files = write_tables(root, lines)
    with pytest.raises(UserError) as error:
        check_files(files)
    message = str(error.value)
    for words in ("data.files.columns.image", "'image'", "'nope/é.png'", str(root), "set data.files.images.root to"):
        assert words in message
    assert image_files.MISSING in message
    elsewhere = files.model_copy(update={"images": Images(root=root / "nope")})
    with pytest.raises(UserError, match=f"looked for under {root}/nope;"):
        check_files(elsewhere)
    check_files(write_tables(root, lines + "4,four,a.png\n"))
    check_files(write_tables(root, lines + "4,four,s3://bucket/a.png\n"))
    check_files(write_tables(root, "item_id,title,image\n1,one,\n"))
    late = "".join(f"{row},t,none.png\n" for row in range(16)) + "16,t,a.png\n"
    with pytest.raises(UserError, match=image_files.MISSING):
        check_files(write_tables(root, "item_id,title,image\n" + late))


def test_web_addresses_that_the_recipe_does_not_allow_are_found_at_once(root: Path) -> None:
    files = write_tables(root, "item_id,title,image\n1,one,https://ann:pass@example.com/a.png?key=secret\n")
    with pytest.raises(UserError, match=r"images\.http: true .*'https://example\.com/a\.png'") as error:
        check_files(files)
    assert "secret" not in str(error.value)
    assert "pass" not in str(error.value)
    check_files(files.model_copy(update={"images": Images(http=True)}))


def test_the_sample_is_that_of_every_file(root: Path) -> None:
    shop = root / "shop"
    shop.mkdir()
    for name, image in (("1", "none.png"), ("2", "a.png")):
        pa.parquet.write_table(
            pa.table({"item_id": [name], "title": ["t"], "image": [image]}), shop / f"{name}.parquet"
        )
    files = write_tables(root, "")
    check_files(files.model_copy(update={"items": "shop"}))
    (root / "a.png").unlink()
    with pytest.raises(UserError, match=r"'none\.png'"):
        check_files(files.model_copy(update={"items": "shop"}))
