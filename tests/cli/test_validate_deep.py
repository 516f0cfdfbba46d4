"""`coldstart validate --deep` reads every row, writes nothing, and reports what prepare would."""

import io
import json
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from tests.cli.conftest import Command


def png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    items = pd.DataFrame({"item_id": [*"abcda"], "title": [*"ABCD", "again"], "image": [png()] * 3 + [b"?", None]})
    items.to_parquet(tmp_path / "items.parquet")
    logs = tmp_path / "logs"
    logs.mkdir()
    header = "user_id,item_id,timestamp,label\n"
    rows = [f"u{row % 5},{'abcd'[row % 4]},{row + 1},{row % 2}\n" for row in range(60)]
    (logs / "1.csv").write_text(header + "".join(rows[:30]) + "u1,b,2,1\n")
    (logs / "2.csv").write_text(header + "".join(rows[30:]) + "u1,nobody,50,1\nu1,a,never,1\nu1,a\n")
    (logs / "_SUCCESS").touch()
    (tmp_path / "mine.yaml").write_text(
        f"name: mine\npaths: {{runs: {tmp_path / 'runs'}}}\n"
        f"data:\n  source: files\n  max_rejected_fraction: 0.5\n  files: {{root: {tmp_path}, events: logs}}\n"
    )
    return tmp_path


def contents(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_every_row_is_accounted_for_and_nothing_is_written(coldstart: Command, shop: Path) -> None:
    before = contents(shop)
    done = coldstart("validate", str(shop / "mine.yaml"), "--deep", "--json")
    assert done.returncode == 0, done.stderr
    assert contents(shop) == before
    report = json.loads(done.stdout)
    assert report["notes"][:4] == [
        "items: items.parquet: 5 rows = 4 used + 1 merged",
        "events: logs/1.csv: 31 rows = 30 used + 1 merged",
        "events: logs/2.csv: 33 rows = 30 used + 3 quarantined",
        "events: logs/_SUCCESS is skipped: name starts with '.' or '_'",
    ]
    assert sum(report["data"]["quarantined"]["events"].values()) == 4
    assert len(report["data"]["quarantined"]["items"]) == 2
    shown = coldstart("validate", str(shop / "mine.yaml"), "--deep")
    assert "events: logs/2.csv: 33 rows = 30 used + 3 quarantined" in shown.stdout


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("split", ["temporal", "item_holdout"])
def test_prepare_counts_the_same(coldstart: Command, shop: Path, split: str) -> None:
    changes = ["--set", f"data.split.kind={split}", "--set", "data.split.holdout_items=0.5"]
    deep = json.loads(coldstart("validate", str(shop / "mine.yaml"), "--deep", "--json", *changes).stdout)["data"]
    excluded = sum(account["excluded"] for account in deep["files"]["events"])
    assert (excluded > 0) == (split == "item_holdout")
    assert coldstart("run", "prepare", "--recipe", str(shop / "mine.yaml"), *changes).returncode == 0
    accounts = json.loads((shop / "runs" / "mine" / "accounting.json").read_text())
    metadata = json.loads((shop / "runs" / "mine" / "dataset" / "manifest.json").read_text())["metadata"]
    assert accounts == {name: deep[name] for name in ("files", "skipped")}
    assert metadata["quarantined"] == deep["quarantined"]
    log = (shop / "runs" / "mine" / "metrics" / "prepare.jsonl").read_text()
    assert "events: logs/1.csv: 31 rows = " in log


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["data.max_rejected_fraction=0.01"], ["2 of 5 rows of the items table", "most frequent reason"]),
        (["data.files.columns.timestamp=label"], ["columns.label: all 32 valid events have label 1"]),
        (["data.split.test=0.02"], ["all 1 events of the test split", "change data.split"]),
        (["data.files.positive_threshold=x"], ["positive_threshold"]),
    ],
)
def test_errors_are_those_of_prepare(coldstart: Command, shop: Path, change: list[str], words: list[str]) -> None:
    before = contents(shop)
    settings = [part for setting in change for part in ("--set", setting)]
    done = coldstart("validate", str(shop / "mine.yaml"), "--deep", *settings)
    assert done.returncode == 2
    for word in words:
        assert word in done.stderr
    assert contents(shop) == before


def test_a_table_of_which_nothing_is_left_is_refused(coldstart: Command, shop: Path) -> None:
    (shop / "logs" / "2.csv").unlink()
    (shop / "logs" / "1.csv").write_text("user_id,item_id,timestamp,label\nu,nobody,1,1\n")
    done = coldstart("validate", str(shop / "mine.yaml"), "--deep", "--set", "data.max_rejected_fraction=0.99")
    assert done.returncode == 2
    assert "1 of 1 rows of the events table were rejected" in done.stderr
