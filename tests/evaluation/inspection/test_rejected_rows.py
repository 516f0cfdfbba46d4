from pathlib import Path

from coldstart.data.cleaning import CONFLICTING_ITEM, MERGED_EVENT, UNKNOWN_ITEM
from coldstart.data.content import Content
from coldstart.data.dataset import Dataset
from coldstart.evaluation.inspection.rejected_rows import RejectedRows, collect_rejected
from tests.evaluation.inspection.datasets import write_dataset


def dataset(path: Path, rejected: list[tuple[str, str, str]]) -> Dataset:
    return Dataset.open(write_dataset(path / "dataset", [Content("a")], [[(1, 1, 5, "train")]], rejected=rejected))


def test_every_reason_has_its_rows_and_examples(tmp_path: Path) -> None:
    rejected = [("items", f"i{number}", CONFLICTING_ITEM) for number in range(5)]
    rejected += [("events", "u1 item_idx 4", MERGED_EVENT), ("events", "u2", UNKNOWN_ITEM)]
    assert collect_rejected(dataset(tmp_path, rejected)) == [
        RejectedRows("items", CONFLICTING_ITEM, 5, True, ["i0", "i1", "i2"]),
        RejectedRows("events", MERGED_EVENT, 1, True, ["u1 item_idx 4"]),
        RejectedRows("events", UNKNOWN_ITEM, 1, False, ["u2"]),
    ]


def test_nothing_is_rejected(tmp_path: Path) -> None:
    assert collect_rejected(dataset(tmp_path, [])) == []
