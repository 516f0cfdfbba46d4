from pathlib import Path

import numpy as np

from coldstart.data.item_table import ItemTable
from coldstart.encoders.item_embeddings import (
    content_digests,
    join_parts,
    part_file,
    read_single_modality,
    single_modality_dir,
    write_part,
)


def columns(rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    return {
        "coarse": rng.normal(size=(count, 3)).astype(np.float32),
        "codes": rng.integers(0, 9, (count, 2)).astype(np.int16),
    }


def test_parts_are_joined_by_item_index_with_zeros_for_the_unknown_item(tmp_path: Path):
    all_items = columns(np.random.default_rng(0), 5)
    for part, rows in ((1, [3, 4]), (0, [0, 1, 2])):
        some = {name: values[rows] for name, values in all_items.items()}
        write_part(tmp_path / "parts", part, np.array(rows) + 1, some, [f"digest {row}" for row in rows])
    join_parts(tmp_path / "parts", tmp_path / "table", num_items=5)
    table = ItemTable.open(tmp_path / "table")
    assert len(table) == 6
    for name, values in all_items.items():
        np.testing.assert_array_equal(table.columns[name][1:].numpy(), values)
        assert table.columns[name].numpy().dtype == values.dtype
        assert not table.columns[name][0].any()
    digests = content_digests(tmp_path / "table")
    assert digests is not None
    assert digests.to_pylist() == [f"digest {row}" for row in range(5)]


def test_a_table_without_digests_says_so(tmp_path: Path):
    write_part(tmp_path / "parts", 0, np.array([1, 2]), columns(np.random.default_rng(0), 2))
    join_parts(tmp_path / "parts", tmp_path / "table", num_items=2)
    assert content_digests(tmp_path / "table") is None


def test_a_part_exists_only_when_it_is_complete(tmp_path: Path):
    write_part(tmp_path, 3, np.array([1]), columns(np.random.default_rng(0), 1))
    assert [file.name for file in tmp_path.iterdir()] == [part_file(tmp_path, 3).name]


def test_single_modality_outputs_are_stored_separately(tmp_path: Path):
    all_items = columns(np.random.default_rng(0), 3)
    parts = tmp_path / "parts"
    write_part(parts, 0, np.array([1, 2, 3]), all_items)
    for part, (items, rows) in enumerate((([3, 7], [0, 1]), ([900], [2]))):
        some = {name: values[rows] for name, values in all_items.items()}
        write_part(single_modality_dir(parts, "text"), part, np.array(items), some)
    join_parts(parts, tmp_path / "table", num_items=3)
    found = read_single_modality(tmp_path / "table", "text")
    assert found is not None
    items, table = found
    assert items.tolist() == [3, 7, 900]
    for name, values in all_items.items():
        np.testing.assert_array_equal(table.columns[name].numpy(), values)
    assert read_single_modality(tmp_path / "table", "image") is None
