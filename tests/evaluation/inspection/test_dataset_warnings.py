from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from coldstart.data.cleaning import CONFLICTING_ITEM, REPEATED_ITEM
from coldstart.data.content import Content
from coldstart.data.dataset import Dataset
from coldstart.evaluation.inspection.dataset_warnings import DatasetWarning, find_warnings
from coldstart.evaluation.inspection.inspection import inspect_dataset
from tests.evaluation.inspection.datasets import START, Event, healthy, write_dataset

DAY = 86_400
Log = tuple[list[Content], list[list[Event]]]


def warnings_of(path: Path, log: Log, **more: object) -> dict[str, DatasetWarning]:
    """Warnings without that of a moving user state, which every log has whose events have times of their own."""
    found = all_warnings_of(path, log, **more)
    found.pop("moving_user_state", None)
    return found


def all_warnings_of(path: Path, log: Log, **more: object) -> dict[str, DatasetWarning]:
    contents, users = log
    written = write_dataset(path / "dataset", contents, users, users_per_part=100, **more)  # type: ignore[arg-type]
    found = find_warnings(inspect_dataset(Dataset.open(written)))
    assert len({one.name for one in found}) == len(found)
    for one in found:
        assert one.what
        assert one.why
        assert one.fix
    return {one.name: one for one in found}


def changed(log: Log, change: Callable[[Event], Event | None]) -> Log:
    contents, users = log
    kept = [[after for event in user if (after := change(event))] for user in users]
    return contents, [user for user in kept if user]


@pytest.fixture(scope="module")
def log() -> Log:
    return healthy(users=900)


def test_nothing_is_wrong_with_a_healthy_dataset(tmp_path: Path, log: Log) -> None:
    rejected = [("items", "a", CONFLICTING_ITEM), *[("items", "b", REPEATED_ITEM)] * 50]
    assert warnings_of(tmp_path, log, rejected=rejected) == {}


def test_few_train_events_make_a_poor_id_space(tmp_path: Path, log: Log) -> None:
    seen: dict[int, int] = {}

    def first_nine(event: Event) -> Event | None:
        seen[event[0]] = seen.get(event[0], 0) + (event[3] == "train")
        return event if event[3] != "train" or seen[event[0]] <= 9 else None

    found = warnings_of(tmp_path, changed(log, first_nine))
    assert found.keys() == {"poor_id_space"}
    assert found["poor_id_space"].what == (
        "the ID space will be poor: 9 train events per item (median of the items that have any)"
    )
    assert all(name in found["poor_id_space"].fix for name in ("content_similarity", "saviorrec", "mim"))


def test_a_small_test_split_says_what_it_can_show(tmp_path: Path) -> None:
    found = warnings_of(tmp_path, healthy(users=40))
    assert set(found) >= {"few_cold_rows"}
    gain = inspect_dataset(Dataset.open(tmp_path / "dataset")).events.smallest_gain
    assert gain > 0.03
    assert f"they can show is {gain:.3f}" in found["few_cold_rows"].what


def test_without_cold_test_rows_nothing_can_be_measured(tmp_path: Path, log: Log) -> None:
    found = warnings_of(tmp_path, changed(log, lambda event: event if event[0] <= 160 else None))
    assert found.keys() == {"no_cold_rows"}
    assert "item_holdout" in found["no_cold_rows"].fix


def test_rows_of_different_times_measure_the_user(tmp_path: Path, log: Log) -> None:
    found = all_warnings_of(tmp_path / "apart", log)
    assert found.keys() == {"moving_user_state"}
    assert "has GAUC 0.27 on cold test rows" in found["moving_user_state"].what
    contents, users = log
    # All that a user sees in the test period is one request.
    together = [
        [(item, label, START + 20 * DAY if split == "test" else at, split) for item, label, at, split in user]
        for user in users
    ]
    assert all_warnings_of(tmp_path / "together", (contents, together)) == {}


def test_cold_rows_of_one_class_have_no_gauc(tmp_path: Path, log: Log) -> None:
    found = warnings_of(tmp_path, changed(log, lambda event: (event[0], 0, *event[2:]) if event[0] > 160 else event))
    assert "GAUC on cold items is undefined" in found["few_cold_rows"].why
    assert "100% of the" in found["one_class_users"].what
    assert "cold test rows" in found["one_class_users"].what


@pytest.mark.parametrize("split", ["valid", "test"])
def test_a_click_rate_that_changes_between_splits_is_drift(tmp_path: Path, log: Log, split: str) -> None:
    rng = np.random.default_rng(5)

    def drop(share: float) -> Callable[[Event], Event | None]:
        return lambda event: None if event[3] == split and event[1] and rng.uniform() < share else event

    assert warnings_of(tmp_path / "less", changed(log, drop(0.05))) == {}
    found = warnings_of(tmp_path / "more", changed(log, drop(0.4)))
    assert found.keys() == {"label_drift"}
    assert found["label_drift"].what.endswith(f"in {split}")
    assert "39.8% in train" in found["label_drift"].what


def test_a_change_that_may_be_chance_is_no_drift(tmp_path: Path, log: Log) -> None:
    rows = iter(range(10**9))
    # Twenty validation rows, 12 of them clicked instead of 8.
    few = changed(log, lambda event: None if event[3] == "valid" and next(rows) >= 20 else event)
    labels = iter([1] * 12 + [0] * 8)
    few = changed(few, lambda event: (event[0], next(labels), *event[2:]) if event[3] == "valid" else event)
    assert warnings_of(tmp_path, few) == {}


def test_test_rows_of_new_users_have_no_history(tmp_path: Path, log: Log) -> None:
    contents, users = log
    new = [[event for event in user if event[3] == "test"][:2] for user in users]
    # The first event of a user has no history, the second one has.
    mixed = [*users[:600], *(user for user in new[600:] if len(user) == 2)]
    expected = sum(len(user) == 2 for user in new[600:])
    test_rows = sum(event[3] == "test" for user in mixed for event in user)
    assert expected > 0.03 * test_rows
    assert "no_history" not in warnings_of(tmp_path / "some", (contents, mixed))
    only = [*users[:60], *(user for user in new[60:] if len(user) == 2)]
    found = warnings_of(tmp_path / "most", (contents, only))
    expected = sum(len(user) == 2 for user in new[60:])
    assert found["no_history"].what.startswith(f"{expected:,} of ")


def test_users_with_one_class_in_the_cold_rows_are_named(tmp_path: Path, log: Log) -> None:
    # Odd users skip all cold items, so about half of the rows count for nothing.
    contents, users = log
    users = [
        [(item, 0 if number % 2 and item > 160 else label, when, split) for item, label, when, split in user]
        for number, user in enumerate(users)
    ]
    found = warnings_of(tmp_path, (contents, users))
    assert "one_class_users" in found
    events = inspect_dataset(Dataset.open(tmp_path / "dataset")).events.cold
    share = events.one_class_rows / events.rows
    assert 0.4 < share < 0.8
    assert f"{share:.0%} of the {events.rows:,} cold test rows" in found["one_class_users"].what


def test_users_whose_events_are_one_burst_are_named(tmp_path: Path, log: Log) -> None:
    contents, users = log

    def burst(share: float) -> Log:
        count = int(share * len(users))
        fast = [[(item, label, START + n, "train") for n, (item, label, *_) in enumerate(user)] for user in users]
        # Items from 161 on stay cold.
        fast = [[event for event in user if event[0] <= 160] for user in fast]
        return contents, [*fast[:count], *users[count:]]

    assert warnings_of(tmp_path / "few", burst(0.15)) == {}
    found = warnings_of(tmp_path / "many", burst(0.25))
    assert found.keys() == {"one_burst_users"}
    assert found["one_burst_users"].what.startswith("25% of the users have all their events within 5 minutes")


def test_modalities_that_cold_items_lack_are_named(tmp_path: Path, log: Log) -> None:
    contents, users = log

    def without(field: str, lacking: Callable[[int], bool]) -> Log:
        return [
            Content(**{**vars(one), field: None}) if lacking(number) else one
            for number, one in enumerate(contents, start=1)
        ], users

    # 40 of 200 items are cold, those from 161 on.
    assert warnings_of(tmp_path / "even", without("image", lambda number: number % 4 == 0)) == {}
    assert warnings_of(tmp_path / "better", without("image", lambda number: number <= 80)) == {}
    found = warnings_of(tmp_path / "title", without("title", lambda number: number > 190))
    assert found.keys() == {"missing_content"}
    assert found["missing_content"].what == (
        "25% of the cold items have no title, but 0% of the items with train events"
    )


def test_a_modality_that_most_items_lack_is_named(tmp_path: Path, log: Log) -> None:
    contents, users = log
    texts = [
        Content(f"title {number}", None, None if number < 101 else one.image) for number, one in enumerate(contents)
    ]
    found = warnings_of(tmp_path / "image", (texts, users))
    assert found["missing_content"].what == "50% of the items have no image"
    assert "content.use_image: false" in found["missing_content"].fix
    images = [Content(image=one.image) for one in contents]
    found = warnings_of(tmp_path / "text", (images, users))
    assert found["missing_content"].what == "100% of the items have no title and text"
    assert "content.use_text: false" in found["missing_content"].fix


def test_old_items_under_a_new_id_are_named(tmp_path: Path, log: Log) -> None:
    contents, users = log

    def copies(count: int) -> Log:
        return [*contents[:160], *contents[:count], *contents[160 + count :]], users

    assert warnings_of(tmp_path / "few", copies(2)) == {}
    found = warnings_of(tmp_path / "many", copies(3))
    assert found.keys() == {"cold_copies"}
    assert found["cold_copies"].what == "3 of 40 cold items have the same content as an item with train events"


def test_ids_that_stand_for_several_items_are_named(tmp_path: Path, log: Log) -> None:
    rejected = [("items", f"id-{number}", CONFLICTING_ITEM) for number in range(3)]
    found = warnings_of(tmp_path, log, rejected=rejected)
    assert found.keys() == {"reused_ids"}
    assert found["reused_ids"].what == (
        "3 rows of the items table repeat an id with other values, for example id-0, id-1, id-2"
    )
