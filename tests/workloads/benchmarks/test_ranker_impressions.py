from pathlib import Path

import numpy as np
import pytest

from coldstart.data.batches import UserWindows
from coldstart.data.schema import TEST, TRAIN, VALID
from tests.events import Events
from workloads.benchmarks.ranker.impressions import RATE_BUCKETS, impressions, write_impressions

LENGTH, ITEMS = 5, 30


@pytest.fixture
def events() -> Events:
    """Users with 0 to 24 events in all splits; many events have the timestamp of the previous one."""
    rng = np.random.default_rng(3)
    lengths = np.array([0, 1, 2, 24, 13, 0, 7])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    total = offsets[-1]
    time = np.concatenate([1000 + np.cumsum(rng.integers(0, 3, n) * 50) for n in lengths])
    return Events(
        offsets, rng.integers(1, ITEMS + 1, total), rng.integers(0, 2, total), time, rng.integers(0, 3, total)
    )


@pytest.mark.parametrize("code", [TRAIN, VALID, TEST])
def test_a_row_has_the_history_of_its_target_in_user_windows(events: Events, code: int):
    rows = impressions(events, code, length=LENGTH)
    windows = UserWindows(events, history=LENGTH, splits=[code], targets=4)
    batch = windows.batch(np.arange(len(windows)))
    order = {int(position): number for number, position in enumerate(windows.event_indices)}
    compared = 0
    for b, t in zip(*np.nonzero(batch.weight.numpy()), strict=True):
        number = order[int(batch.event_index[b, t])]
        history_mask = batch.history_mask[b, t]
        held = rows["mark"][number] > 0
        assert rows["target"][number] == batch.target_idx[b, t]
        assert rows["label"][number] == batch.label[b, t]
        assert rows["history"][number][held].tolist() == batch.history_idx[b, history_mask].tolist()
        assert (rows["mark"][number][held] - 1).tolist() == batch.history_label[b, history_mask].tolist()
        assert rows["seen"][number] == history_mask.sum()
        compared += 1
    assert compared == len(rows["label"]) == windows.num_targets > 10


def test_clicked_and_skipped_events_together_are_the_history(events: Events):
    rows = impressions(events, TRAIN, length=LENGTH)
    np.testing.assert_array_equal(rows["clicked"] + rows["skipped"], rows["history"])
    np.testing.assert_array_equal(rows["clicked"] > 0, rows["mark"] == 2)
    np.testing.assert_array_equal(rows["skipped"] > 0, rows["mark"] == 1)


def test_context_depends_on_the_past_alone(events: Events):
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


def test_files_are_written_once_and_named_by_their_content(events: Events, tmp_path: Path):
    first = write_impressions(events, ITEMS, tmp_path, length=LENGTH)
    stamp = (first.path / "train.npz").stat().st_mtime_ns
    again = write_impressions(events, ITEMS, tmp_path, length=LENGTH)
    assert (again, (again.path / "train.npz").stat().st_mtime_ns) == (first, stamp)
    with np.load(first.path / "test.npz") as table:
        assert len(table["label"]) == first.test
        np.testing.assert_array_equal(table["history"], impressions(events, TEST, length=LENGTH)["history"])
    events.label = 1 - events.label
    assert write_impressions(events, ITEMS, tmp_path, length=LENGTH).path != first.path
