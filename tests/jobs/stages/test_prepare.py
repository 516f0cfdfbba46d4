import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from coldstart.config import Artifact, MetricsLog, Recipe, UserError
from coldstart.data import cleaning
from coldstart.data.dataset import Dataset
from coldstart.data.schema import DIGESTS, EXCLUDED, TEST, TRAIN, VALID
from coldstart.jobs.stages import prepare

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]
GENERATED = {"items": 150, "users": 60, "events": 3000, "weeks": 2, "image_size": 16}


def _recipe(runs: Path, **data: Any) -> Recipe:
    return Recipe.model_validate({"name": "small", "seed": 3, "paths": {"runs": runs}, "data": data})


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    prepare.run(_recipe(runs, generated=GENERATED))
    return runs / "small"


def _users_events(dataset: Dataset) -> pd.DataFrame:
    sequences = dataset.sequences
    frame = pd.DataFrame({name: getattr(sequences, name) for name in ("item_idx", "label", "timestamp", "split")})
    frame["user_id"] = np.repeat(np.array(sequences.user_id, object), np.diff(sequences.offsets))
    return frame


def test_a_generated_dataset_contains_every_event_of_its_source(generated: Path) -> None:
    dataset = Dataset.open(generated / "dataset")
    source = pd.read_parquet(generated / "source" / "events.parquet")
    ids = np.array(dataset.items(["item_id"])["item_id"].to_pylist(), object)
    assert (ids == np.sort(ids)).all()
    events = _users_events(dataset)
    events["item_id"] = ids[events.item_idx - 1]
    events["p_click"], events["p_click_content"] = dataset.sequences.p_click, dataset.sequences.p_click_content
    columns = ["user_id", "item_id", "timestamp", "label", "p_click", "p_click_content"]
    key = columns[:3]
    pd.testing.assert_frame_equal(
        events[columns].sort_values(key, ignore_index=True), source[columns].sort_values(key, ignore_index=True)
    )
    created = pd.read_parquet(generated / "source" / "items.parquet").set_index("item_id").created_at
    assert dataset.items(["created_at"])["created_at"].to_pylist() == created[ids].tolist()
    metadata = dataset.artifact.metadata
    assert metadata["oracle"]
    assert metadata["last_event_at"] == source.timestamp.max()
    assert metadata["events"] == len(source) == sum(split["events"] for split in metadata["splits"].values())
    assert metadata["items"] == GENERATED["items"]
    assert MetricsLog(generated / "metrics" / "prepare.jsonl").read()[-1]["done"] == 5


def test_images_and_texts_are_unchanged(generated: Path) -> None:
    source = pd.read_parquet(generated / "source" / "items.parquet").set_index("item_id").sort_index()
    items = Dataset.open(generated / "dataset").items().to_pandas().set_index("item_id")
    for column, source_column in (("title", "title"), ("text", "text"), ("image", "image")):
        pairs = zip(items[column], source[source_column], strict=True)
        assert all(a == b or (pd.isna(a) and pd.isna(b)) for a, b in pairs)
    contents = Dataset.open(generated / "dataset").contents(np.arange(1, len(items) + 1))
    for name in DIGESTS:
        assert items[name].tolist() == [getattr(content, name) for content in contents]


def test_splits_are_separate_in_time_and_items_count_only_train(generated: Path) -> None:
    dataset = Dataset.open(generated / "dataset")
    events, cuts = _users_events(dataset), dataset.artifact.metadata["time_cuts"]
    assert (events.timestamp[events.split == TRAIN] < cuts["valid_from"]).all()
    assert events.timestamp[events.split == VALID].between(cuts["valid_from"], cuts["test_from"] - 1).all()
    assert (events.timestamp[events.split == TEST] >= cuts["test_from"]).all()
    assert events.split.value_counts(normalize=True)[TEST] == pytest.approx(0.2, abs=0.01)
    train = events[events.split == TRAIN].groupby("item_idx")
    _assert_train_counts(dataset, train)
    assert dataset.artifact.metadata["cold_items"] == (dataset.train_counts[1:] == 0).sum() > 0


def _assert_train_counts(dataset: Dataset, train: Any) -> None:
    items = dataset.items().to_pandas().set_index("item_idx")
    expected = pd.DataFrame({"n": train.size(), "clicks": train.label.sum(), "first": train.timestamp.min()})
    expected = expected.reindex(items.index)
    assert (items.num_train_events == expected.n.fillna(0)).all()
    assert (items.num_train_clicks == expected.clicks.fillna(0)).all()
    assert items.first_event_at.isna().equals(expected.n.isna())
    assert (items.first_event_at.dropna() == expected["first"].dropna()).all()


def test_sequences_are_ordered_by_time(generated: Path) -> None:
    sequences = Dataset.open(generated / "dataset").sequences
    steps = np.diff(sequences.timestamp)
    inner = np.ones(len(steps), bool)
    inner[sequences.offsets[1:-1] - 1] = False
    assert (steps[inner] >= 0).all()
    assert sequences.user_id == sorted(sequences.user_id)


def test_preparing_again_changes_nothing_and_generates_nothing(generated: Path, tmp_path: Path) -> None:
    drawn = (generated / "source" / "items.parquet").stat().st_mtime_ns
    first = Dataset.open(generated / "dataset").artifact
    again = prepare.run(_recipe(generated.parent, generated=GENERATED))
    assert again.fingerprint == first.fingerprint
    assert (generated / "source" / "items.parquet").stat().st_mtime_ns == drawn


def test_held_out_items_are_never_in_training(tmp_path: Path, generated: Path) -> None:
    split = {"kind": "item_holdout", "holdout_items": 0.3, "valid": 0.2, "test": 0.2}
    artifact = prepare.run(_recipe(tmp_path, generated=GENERATED, split=split))
    dataset = Dataset(artifact)
    events = _users_events(dataset)
    assert events.groupby("user_id").split.nunique().eq(1).all()
    train = events[events.split == TRAIN]
    cold = np.flatnonzero(dataset.train_counts[1:] == 0) + 1
    assert len(cold) >= round(0.3 * GENERATED["items"])
    assert not train.item_idx.isin(cold).any()
    _assert_train_counts(dataset, train.groupby("item_idx"))
    # Held-out items still have events of valid and test users.
    assert events.item_idx.isin(cold).sum() > 50
    metadata = artifact.metadata
    assert metadata["excluded_events"] > 0
    _assert_held_out(dataset, events, cold)
    source = pq.read_metadata(generated / "source" / "events.parquet").num_rows
    assert metadata["events"] + metadata["excluded_events"] == source


def _assert_held_out(dataset: Dataset, events: pd.DataFrame, cold: np.ndarray) -> None:
    """The held-out sequences contain all events: also those of train users on held-out items."""
    held = dataset.held_out
    user = np.repeat(held.user_id, np.diff(held.offsets))
    excluded = held.split == EXCLUDED
    assert excluded.sum() == dataset.artifact.metadata["excluded_events"]
    assert np.isin(held.item_idx[excluded], cold).all()
    tested = events[events.split != TRAIN].user_id.unique()
    assert not np.isin(user[excluded], tested).any()
    for name in ("item_idx", "label", "timestamp", "split"):
        np.testing.assert_array_equal(getattr(held, name)[~excluded], getattr(dataset.sequences, name))
    steps = np.diff(held.timestamp)[np.diff(np.unique(user, return_inverse=True)[1]) == 0]
    assert (steps >= 0).all()


def _png(side: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (side, side)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def messy(tmp_path: Path) -> Path:
    """A user's tables with every kind of bad row among good ones."""
    items = pd.DataFrame(
        {
            "film": [f"f{i}" for i in range(20)] + ["f0", None, "silent", "broken", "lost", "huge"],
            "name": [f"Film {i}" for i in range(20)] + ["again", "no id", None, "Broken", None, "Huge"],
            "poster": [_png(8)] * 20 + [None, None, None, b"?", b"?", _png(60)],
            "genres": ["Drama|Comedy"] * 26,
        }
    )
    items.loc[22:24, "genres"] = None
    items.to_parquet(tmp_path / "items.parquet")
    lines = ["who,film,at,stars"]
    lines += [f"u{i % 7},f{i % 20},{1000 + i},{i % 5 + 1}" for i in range(200)]
    lines += ["u1,f1,1001,2", ",f1,2000,3", "u1,,2000,3", "u1,nobody,2000,3", "u1,lost,2000,3", "u1,f1,soon,3"]
    lines += ["u1,f1,1700000000000,3", "u1,f1,2000,many", "u1,f1,2000", "u1,broken,1100,5"]
    (tmp_path / "events.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def _messy_recipe(root: Path, **data: Any) -> Recipe:
    columns = {"item_id": "film", "title": "name", "image": "poster", "tags": ["genres"]}
    columns |= {"user_id": "who", "timestamp": "at", "label": "stars"}
    files = {"root": root, "events": "events.csv", "columns": columns, "positive_threshold": 4}
    limits = {"max_rejected_fraction": 0.3, "max_image_pixels": 2500}
    return _recipe(root / "runs", **({"source": "files", "files": files} | limits | data))


def test_every_bad_row_is_in_quarantine_and_none_is_lost(messy: Path) -> None:
    artifact = prepare.run(_messy_recipe(messy))
    bad = pd.read_parquet(artifact.path / "quarantine")
    events = bad[bad.table == "events"]
    expected = [cleaning.REPEATED_EVENT, cleaning.NO_USER, cleaning.NO_ITEM_ID, *[cleaning.UNKNOWN_ITEM] * 2]
    expected += [cleaning.BAD_TIME, cleaning.FAR_TIME, cleaning.NO_RATING]
    # The malformed line is numbered after the well-formed ones.
    assert events.reason.tolist() == [*expected, cleaning.MALFORMED]
    assert events.row.tolist() == [*range(200, 208), 209]
    items = bad[bad.table == "items"].set_index("row").reason
    assert items.index.tolist() == [20, 21, 22, 23, 24, 25]
    assert items[20] == cleaning.CONFLICTING_ITEM
    assert items[21] == cleaning.NO_ITEM_ID
    assert items[22] == cleaning.NOTHING_TO_READ
    assert [("kept without" in items[row]) for row in (23, 24, 25)] == [True, False, True]
    assert artifact.metadata["items"] == 22
    assert artifact.metadata["events"] + len(events) == 210
    assert sum(artifact.metadata["quarantined"]["events"].values()) == len(events)

    dataset = Dataset(artifact)
    rows = {row["item_id"]: row for row in dataset.items().to_pylist()}
    assert rows["f0"]["title"] == "Film 0"
    assert rows["f0"]["text"] == "genres: Drama, Comedy"
    assert rows["broken"]["image"] is None
    assert dataset.sequences.p_click is None
    assert not artifact.metadata["oracle"]


def test_too_many_bad_rows_are_an_error_with_the_most_frequent_reason(messy: Path) -> None:
    with pytest.raises(UserError, match=r"6 of 26 rows of the items table .* 0\.1; most frequent") as error:
        prepare.run(_messy_recipe(messy, max_rejected_fraction=0.1))
    quarantine = messy / "runs" / "small" / "quarantine"
    assert str(quarantine) in str(error.value)
    assert len(pd.read_parquet(quarantine)) == 6
    assert not (messy / "runs" / "small" / "dataset").exists()


def test_a_file_that_fails_in_a_task_is_named(tmp_path: Path) -> None:
    events = {"user_id": ["u"] * 900, "item_id": ["a"] * 900, "timestamp": range(1, 901), "label": [0, 1, 1] * 300}
    pd.DataFrame(events).to_parquet(tmp_path / "events.parquet", row_group_size=300)
    pd.DataFrame({"item_id": ["a"], "title": ["one"]}).to_parquet(tmp_path / "items.parquet")
    file = tmp_path / "events.parquet"
    start = pq.read_metadata(file).row_group(2).column(2).data_page_offset
    damaged = bytearray(file.read_bytes())
    damaged[start : start + 100] = b"\xff" * 100
    file.write_bytes(damaged)
    files = {"root": tmp_path, "columns": {"image": None}}
    with pytest.raises(UserError, match=r"events\.parquet cannot be read"):
        prepare.run(_recipe(tmp_path / "runs", source="files", files=files))


def test_the_manifest_contains_no_path_or_time(generated: Path) -> None:
    manifest = (generated / "dataset" / "manifest.json").read_text()
    assert str(generated) not in manifest
    assert json.loads(manifest)["kind"] == "dataset"
    assert isinstance(Dataset.open(generated / "dataset").artifact, Artifact)
