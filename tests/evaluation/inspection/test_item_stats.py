from pathlib import Path

import numpy as np
import pytest

from coldstart.data.content import Content
from coldstart.data.dataset import Dataset
from coldstart.evaluation.inspection import item_stats
from coldstart.evaluation.inspection.item_stats import Missing, collect_items, sample_contents
from tests.evaluation.inspection.datasets import START, Event, png, write_dataset

CONTENTS = [
    Content("red shoe", "a shoe", png(30, 20)),  # 1, warm
    Content("red shoe", "a shoe", png(30, 20)),  # 2, cold, a copy of 1
    Content("blue shoe", None, png(10, 40)),  # 3, warm
    Content(None, None, png(5, 5)),  # 4, cold
    Content(None, "one two three", None),  # 5, cold
    Content("", "", b"no image"),  # 6, warm
    Content("hat", "hat", None),  # 7, cold
    Content("hat", "hat", None),  # 8, cold, a copy of 7, which is cold as well
]
USERS: list[list[Event]] = [
    [(1, 1, START, "train"), (1, 0, START + 5, "train"), (3, 1, START + 6, "train"), (2, 1, START + 7, "valid")],
    [(6, 1, START, "train"), (5, 0, START + 9, "test")],
]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return Dataset.open(write_dataset(tmp_path / "dataset", CONTENTS, USERS))


def test_items_are_counted_by_train_events_only(dataset: Dataset) -> None:
    found = collect_items(dataset)
    assert (found.items, found.cold) == (8, 5)
    assert found.train_events.frequency.tolist() == [5, 2, 1]


def test_missing_modalities_are_counted_for_cold_and_warm_items(dataset: Dataset) -> None:
    found = collect_items(dataset).missing
    assert {name: (one.cold, one.warm) for name, one in found.items()} == {
        "image": (3, 0),
        "title": (2, 1),
        "text": (1, 2),
        "title and text": (1, 1),
    }
    image = found["image"]
    assert (image.cold_items, image.warm_items) == (5, 3)
    assert (image.share, image.cold_share, image.warm_share) == (3 / 8, 3 / 5, 0)
    assert np.isnan(Missing(0, 1, 0, 2).cold_share)


def test_copies_of_items_with_train_events_are_told_from_copies_of_cold_items(dataset: Dataset) -> None:
    found = collect_items(dataset)
    assert found.equal_content == 4
    assert found.cold_copies == 1


def test_sizes_come_from_headers(dataset: Dataset) -> None:
    found = sample_contents(dataset, seed=0)
    assert found.items == 8
    assert sorted(found.image_bytes) == sorted(len(one.image) for one in CONTENTS if one.image)
    assert found.image_sides.tolist() == [[30, 20], [30, 20], [10, 40], [5, 5]]
    assert found.formats == {"PNG": 4}
    assert found.words.tolist() == [4, 4, 2, 3, 2, 2]


def test_only_a_bounded_sample_is_read_a_row_group_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = [Content(f"title {number}", image=png(number + 1, 1)) for number in range(150)]
    dataset = Dataset.open(write_dataset(tmp_path / "dataset", contents, USERS))
    monkeypatch.setattr(item_stats, "SAMPLED_GROUPS", 3)
    read: list[int] = []
    contents_of = Dataset.contents
    monkeypatch.setattr(Dataset, "contents", lambda self, at: read.append(len(at)) or contents_of(self, at))
    found = sample_contents(dataset, seed=0)
    assert max(read) == 16
    assert len(read) == 3
    assert found.items == sum(read) == len(found.image_bytes)
    assert len({int(width) for width, _ in found.image_sides}) == found.items
    again, other = sample_contents(dataset, seed=0), sample_contents(dataset, seed=1)
    np.testing.assert_array_equal(again.image_sides, found.image_sides)
    assert other.image_sides.tolist() != found.image_sides.tolist()


def test_a_sample_without_images_is_empty(tmp_path: Path) -> None:
    dataset = Dataset.open(write_dataset(tmp_path / "dataset", [Content("a"), Content("b")], [[(1, 1, 5, "train")]]))
    found = sample_contents(dataset, seed=0)
    assert found.image_sides.shape == (0, 2)
    assert (found.items, found.formats, len(found.image_bytes)) == (2, {}, 0)
