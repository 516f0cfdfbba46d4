import json
from pathlib import Path

import pytest

from coldstart.config import UserError, write_artifact
from coldstart.data.cleaning import UNKNOWN_ITEM
from coldstart.data.content import Content
from coldstart.data.dataset import part_path
from coldstart.evaluation.inspection.inspection import as_json, inspect_dataset, open_dataset
from tests.evaluation.inspection.datasets import START, Event, png, write_dataset

CONTENTS = [Content("one", "a b c", png(40, 30)), Content("two"), Content("three"), Content("four")]
USERS: list[list[Event]] = [
    [(1, 1, START, "train"), (1, 0, START + 60, "train"), (3, 1, START + 600, "test"), (4, 0, START + 601, "test")],
    [(2, 0, START + 30, "train"), (1, 1, START + 400, "valid")],
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "mine" / "dataset", CONTENTS, USERS, rejected=[("events", "u9", UNKNOWN_ITEM)])
    return tmp_path / "mine"


def test_the_numbers_are_json_values(run: Path) -> None:
    found = as_json(inspect_dataset(open_dataset(run)))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["name"], found["items"], found["cold_items"]) == ("mine", 4, 2)
    assert (found["users"], found["events"], found["excluded_events"], found["drawn_negatives"]) == (2, 6, 0, 0)
    times = {"first_at": START, "last_at": START + 60}
    assert found["splits"]["train"] == {"events": 3, "clicks": 1, **times, "click_rate": 1 / 3}
    assert found["train_events_per_item"] == {
        "median": 0.5,
        "median_of_seen": 1.5,
        "histogram": [["0", 2], ["1+", 2]],
        "shares": {"0": 0.5, "1": 0.25, "2-9": 0.25, "10-99": 0, "100+": 0},
    }
    assert found["events_per_user"] == {"median": 3, "histogram": [["0", 0], ["1-2", 1], ["3+", 1]]}
    assert found["one_burst"] == {"seconds": 300, "users": 0, "events": 0}
    assert found["test"]["without_history"] == 0
    assert found["cold_test"]["rows"] == 2
    # One pair: its GAUC is 0 or 1.
    assert found["cold_test"]["smallest_gain"] == pytest.approx(2.8016 * 0.5, abs=1e-3)
    assert found["cold_over_time"] == {
        "unit": "hour",
        "periods": [{"start": START, "split": "test", "events": 2, "clicks": 1, "cold_events": 2}],
    }
    assert [period["events"] for period in found["over_time"]["periods"]] == [3, 1, 2]
    assert found["missing"]["image"] == {"cold": 2, "warm": 1, "cold_items": 2, "warm_items": 2}
    assert found["sample"]["formats"] == {"PNG": 1}
    assert found["sample"]["image_width"] == {"p05": 40, "median": 40, "p95": 40, "max": 40}
    assert found["sample"]["words"]["max"] == 4
    assert [one["examples"] for one in found["rejected"]] == [["u9"]]


def test_what_is_undefined_is_none(tmp_path: Path) -> None:
    write_dataset(tmp_path / "dataset", [Content("one")], [[(1, 1, START, "train")]])
    found = as_json(inspect_dataset(open_dataset(tmp_path)))
    assert json.dumps(found, allow_nan=False)
    assert found["splits"]["test"] == {
        "events": 0, "clicks": 0, "first_at": None, "last_at": None, "click_rate": None,
    }  # fmt: skip
    assert found["cold_test"]["smallest_gain"] is None
    assert found["cold_over_time"]["periods"] == []
    assert found["sample"]["image_bytes"]["median"] is None


def test_a_run_and_its_dataset_are_the_same(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = as_json(inspect_dataset(open_dataset(run)))
    assert as_json(inspect_dataset(open_dataset(run / "dataset"))) == found
    monkeypatch.chdir(run / "dataset")
    assert as_json(inspect_dataset(open_dataset(Path()))) == {**found, "path": "."}


def test_what_is_no_dataset_is_named_with_the_fix(run: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path, run / "dataset" / "items"):
        with pytest.raises(UserError, match=rf"no dataset at {path}: .*pass a run directory, for example runs/demo"):
            open_dataset(path)
    (run / "dataset" / "manifest.json").rename(run / "manifest.json")
    with pytest.raises(UserError, match="missing or differs from its manifest"):
        open_dataset(run)


def test_a_damaged_dataset_is_an_error_with_the_fix(run: Path) -> None:
    file = part_path(run / "dataset" / "sequences", 0)
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"part-00000.parquet is missing or differs.*; create the dataset again"):
        open_dataset(run)
    file.unlink()
    with pytest.raises(UserError, match=r"part-00000.parquet is missing or differs.*; create the dataset again"):
        open_dataset(run)


def test_a_dataset_of_an_earlier_version_is_an_error_with_the_fix(tmp_path: Path) -> None:
    with write_artifact(tmp_path / "dataset", "dataset", {}, {"items": 1, "events": 1, "split": {}, "seed": 1}):
        pass
    with pytest.raises(UserError, match=r"no entry 'quarantined' in its manifest: .*run prepare again"):
        open_dataset(tmp_path)
