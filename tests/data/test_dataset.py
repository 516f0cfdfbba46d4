from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coldstart.config import UserError, write_artifact
from coldstart.config.recipe import Modalities
from coldstart.data.content import Content
from coldstart.data.dataset import Dataset, part_path
from coldstart.data.schema import DIGESTS, ITEMS, ITEMS_PER_PART, ITEMS_PER_ROW_GROUP

N = ITEMS_PER_PART + 37


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "dataset"
    index = np.arange(1, N + 1)
    columns = [
        index,
        [f"id{i}" for i in index],
        [f"title {i}" if i % 3 else None for i in index],
        [f"text {i}" if i % 2 else None for i in index],
        [b"%d" % i if i % 5 else None for i in index],
        [int(i) if i % 4 else None for i in index],
        [int(i) if i % 4 else None for i in index],
        index % 4,
        np.zeros(N),
    ]
    arrays = [pa.array(values).cast(field.type) for values, field in zip(columns, ITEMS, strict=True)]
    table = pa.table(arrays, schema=ITEMS)
    with write_artifact(path, "dataset", {}, {"items": N}) as draft:
        (draft / "items").mkdir()
        for part in range(2):
            rows = table.slice(part * ITEMS_PER_PART, ITEMS_PER_PART)
            pq.write_table(rows, part_path(draft / "items", part), row_group_size=ITEMS_PER_ROW_GROUP)
    return path


@pytest.mark.parametrize(
    "order",
    [[1], [N], [N, 1, N, 2], [17, 16, 15], [ITEMS_PER_PART, ITEMS_PER_PART + 1], []],
)
def test_contents_are_in_the_requested_order(path: Path, order: list[int]) -> None:
    contents = Dataset.open(path).contents(np.array(order, np.int64))
    assert contents == [
        Content(f"title {i}" if i % 3 else None, f"text {i}" if i % 2 else None, b"%d" % i if i % 5 else None)
        for i in order
    ]


def test_contents_of_everything_shuffled(path: Path) -> None:
    order = np.random.default_rng(0).permutation(N) + 1
    dataset = Dataset.open(path)
    titles = dataset.items(["title"])["title"].to_pylist()
    assert [content.title for content in dataset.contents(order)] == [titles[i - 1] for i in order]


def test_counts_and_index_follow_item_idx(path: Path) -> None:
    dataset = Dataset.open(path)
    assert dataset.num_items == N
    assert dataset.train_counts[:6].tolist() == [0, 1, 2, 3, 0, 1]
    assert dataset.train_counts.shape == (N + 1,)
    assert dataset.item_index["id9"] == 9
    assert {"title 1", "text 1"} <= set(dataset.texts())


def test_parts_of_the_items_follow_item_idx(path: Path) -> None:
    parts = list(Dataset.open(path).item_parts(["item_idx"]))
    assert [part.num_rows for part in parts] == [ITEMS_PER_PART, 37]
    assert np.concatenate([part["item_idx"] for part in parts]).tolist() == list(range(1, N + 1))


def test_items_with_identical_content_share_a_group(tmp_path: Path) -> None:
    digests = [[5, 9], [5, 9], [5, 8], [4, 9], [0, 0], [0, 0]]
    with write_artifact(tmp_path / "dataset", "dataset", {}, {"items": len(digests)}) as draft:
        (draft / "items").mkdir()
        columns = dict(zip(DIGESTS, map(pa.array, zip(*digests, strict=True)), strict=True))
        pq.write_table(pa.table(columns), part_path(draft / "items", 0))
    dataset = Dataset.open(tmp_path / "dataset")

    def groups_of(**modalities: bool) -> list[list[int]]:
        groups = dataset.content_groups(Modalities(**modalities))
        assert groups.shape == (7,)
        return [np.flatnonzero(groups == group).tolist() for group in np.unique(groups)[1:]]

    assert groups_of() == [[5, 6], [4], [3], [1, 2]]
    assert groups_of(use_image=False) == [[5, 6], [4], [1, 2, 3]]
    assert groups_of(use_text=False) == [[5, 6], [3], [1, 2, 4]]


def test_a_dataset_without_digests_is_an_error_with_the_fix(path: Path) -> None:
    with pytest.raises(UserError, match="no column text_digest in its items; run prepare again"):
        Dataset.open(path).content_groups(Modalities())


def test_a_corrupt_dataset_is_refused(path: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no dataset at"):
        Dataset.open(tmp_path)
    file = part_path(path / "items", 1)
    sound = file.read_bytes()
    file.write_bytes(sound[:-1] + b"?")
    try:
        with pytest.raises(UserError, match="differs from its manifest"):
            Dataset.open(path)
    finally:
        file.write_bytes(sound)
