from pathlib import Path

import numpy as np
import pytest

from coldstart.data.batches import UserWindows
from coldstart.data.contract import TEST, TRAIN, VALID
from tests.events import Events
from workloads.benchmarks.ranker.rows import RATE_BUCKETS, impressions, write_rows

LENGTH, ITEMS = 5, 30


@pytest.fixture
def events() -> Events:
    """Users of 0 to 24 events, many of them at the same second as the one before, in all splits."""
    rng = np.random.default_rng(3)
    lengths = np.array([0, 1, 2, 24, 13, 0, 7])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    total = offsets[-1]
    time = np.concatenate([1000 + np.cumsum(rng.integers(0, 3, n) * 50) for n in lengths])
    return Events(
        offsets, rng.integers(1, ITEMS + 1, total), rng.integers(0, 2, total), time, rng.integers(0, 3, total)
    )


@pytest.mark.parametrize("code", [TRAIN, VALID, TEST])
def test_a_row_shows_what_its_target_sees_in_user_windows(events: Events, code: int):
    rows = impressions(events, code, length=LENGTH)
    windows = UserWindows(events, history=LENGTH, splits=[code], targets=4)
    batch = windows.batch(np.arange(len(windows)))
    order = {int(position): number for number, position in enumerate(windows.rows)}
    compared = 0
    for b, t in zip(*np.nonzero(batch.weight.numpy()), strict=True):
        number = order[int(batch.row[b, t])]
        visible = batch.visible[b, t]
        held = rows["mark"][number] > 0
        assert rows["target"][number] == batch.target_idx[b, t]
        assert rows["label"][number] == batch.label[b, t]
        assert rows["history"][number][held].tolist() == batch.history_idx[b, visible].tolist()
        assert (rows["mark"][number][held] - 1).tolist() == batch.history_label[b, visible].tolist()
        assert rows["seen"][number] == visible.sum()
        compared += 1
    assert compared == len(rows["label"]) == windows.num_targets > 10


def test_clicked_and_skipped_events_make_up_the_history(events: Events):
    rows = impressions(events, TRAIN, length=LENGTH)
    np.testing.assert_array_equal(rows["clicked"] + rows["skipped"], rows["history"])
    np.testing.assert_array_equal(rows["clicked"] > 0, rows["mark"] == 2)
    np.testing.assert_array_equal(rows["skipped"] > 0, rows["mark"] == 1)


def test_context_is_told_by_the_past_alone(events: Events):
    before = impressions(events, TEST, length=LENGTH)
    events.label = np.where(events.split == TEST, 1 - events.label, events.label)
    after = impressions(events, TEST, length=LENGTH)
    first = np.array([not (row > 0).any() for row in before["mark"]])
    assert first.any()
    np.testing.assert_array_equal(before["rate"][first], after["rate"][first])
    assert (before["gap"][first] == 0).all()
    assert (before["rate"] < RATE_BUCKETS).all()
    clicks = (before["mark"] == 2).sum(1)
    np.testing.assert_array_equal(before["rate"], (clicks + 1) * RATE_BUCKETS // (before["seen"] + 2))


def test_known_targets_are_items_of_the_train_split(events: Events):
    rows = impressions(events, TEST, length=LENGTH)
    trained = set(events.item_idx[events.split == TRAIN].tolist())
    assert rows["known"].tolist() == [int(item in trained) for item in rows["target"].tolist()]
    assert 0 < rows["known"].sum() < len(rows["known"])


def test_rows_are_written_once_and_named_by_what_they_hold(events: Events, tmp_path: Path):
    first = write_rows(events, ITEMS, tmp_path, length=LENGTH)
    stamp = (first.path / "train.npz").stat().st_mtime_ns
    again = write_rows(events, ITEMS, tmp_path, length=LENGTH)
    assert (again, (again.path / "train.npz").stat().st_mtime_ns) == (first, stamp)
    with np.load(first.path / "test.npz") as table:
        assert len(table["label"]) == first.test
        np.testing.assert_array_equal(table["history"], impressions(events, TEST, length=LENGTH)["history"])
    events.label = 1 - events.label
    assert write_rows(events, ITEMS, tmp_path, length=LENGTH).path != first.path
