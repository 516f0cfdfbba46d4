import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import save_file

from coldstart.config import UserError
from coldstart.rankers.imported_table import load_imported_table, read_item_ids

INDEX = {"a": 1, "b": 2, "c": 3}
VECTORS = np.array([[1, 2], [3, 4]], np.float32)


def parquet(path, ids=("c", "a"), vectors=VECTORS):
    pq.write_table(pa.table({"item_id": pa.array(list(ids)), "embedding": [list(row) for row in vectors]}), path)
    return path


def columns(path):
    pq.write_table(pa.table({"item_id": ["c", "a"], "x": [1, 3], "y": [2.0, 4.0]}), path)
    return path


def npz(path):
    np.savez(path, ids=np.array(["c", "a"]), vectors=VECTORS)
    return path


def safetensors(path):
    save_file({"vectors": VECTORS}, path, metadata={"ids": json.dumps(["c", "a"])})
    return path


@pytest.mark.parametrize(
    ("write", "name"), [(parquet, "t.parquet"), (columns, "t.parquet"), (npz, "t.npz"), (safetensors, "t.safetensors")]
)
def test_every_format_is_sorted_by_item_index(tmp_path, write, name):
    table = load_imported_table(write(tmp_path / name), INDEX, embedding_dim=2)
    assert table.rows.tolist() == [[0, 0], [3, 4], [0, 0], [1, 2]]
    assert table.trained.tolist() == [False, True, False, True]
    assert table.rows.dtype == torch.float32


def test_numeric_ids_are_read_as_text(tmp_path):
    np.savez(tmp_path / "t.npz", ids=np.array([7, 9]), vectors=VECTORS)
    assert load_imported_table(tmp_path / "t.npz", {"9": 1, "7": 2}, embedding_dim=2).rows.tolist() == [
        [0, 0],
        [3, 4],
        [1, 2],
    ]


def test_items_outside_the_catalog_are_left_out(tmp_path):
    table = load_imported_table(parquet(tmp_path / "t.parquet", ids=("elsewhere", "b")), INDEX, embedding_dim=2)
    assert table.rows.tolist() == [[0, 0], [0, 0], [3, 4], [0, 0]]


@pytest.mark.parametrize(
    ("ids", "vectors", "words"),
    [
        (["a", "a"], VECTORS, "1 duplicate item ids: a;"),
        (["a", None], VECTORS, "1 rows without an item id (row numbers): 1;"),
        (["a", ""], VECTORS, "1 rows without an item id (row numbers): 1;"),
        (
            ["x", "y"],
            VECTORS,
            "none of the 2 ids in .* the file has ids such as x, y, the catalog has ids such as a, b, c",
        ),
        (["a", "b"], [[1, 2], [np.nan, 1]], "1 rows with NaN, infinity or only zeros: b;"),
        (["a", "b"], [[np.inf, 2], [0, 0]], "2 rows with NaN, infinity or only zeros: a, b;"),
        (["a", "b"], [[1, 2, 3], [1, 2, 3]], "width 3, but ranker.embedding_dim is 2; set ranker.embedding_dim: 3"),
        (["a", "b"], [[1, 2], [1]], "lists of column embedding have lengths 1, 2; all must be equal"),
        (["a", "b"], [[1, None], [1, 2]], "1 rows with NaN"),
    ],
)
def test_an_invalid_table_is_refused_with_ids_and_count(tmp_path, ids, vectors, words):
    with pytest.raises(UserError, match=words.replace("(", r"\(").replace(")", r"\)")):
        load_imported_table(parquet(tmp_path / "t.parquet", ids, vectors), INDEX, embedding_dim=2)


def test_errors_of_unreadable_files_name_what_is_expected(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load_imported_table(tmp_path / "t.npz", INDEX, embedding_dim=2)
    (tmp_path / "t.csv").write_text("a,1,2")
    with pytest.raises(UserError, match=r"must end in \.parquet, \.npz, \.safetensors"):
        load_imported_table(tmp_path / "t.csv", INDEX, embedding_dim=2)
    np.savez(tmp_path / "t.npz", vectors=VECTORS)
    with pytest.raises(UserError, match="must hold arrays ids"):
        load_imported_table(tmp_path / "t.npz", INDEX, embedding_dim=2)
    np.savez(tmp_path / "t.npz", ids=np.array(["a"]), vectors=VECTORS)
    with pytest.raises(UserError, match="1 ids but 2 vectors"):
        load_imported_table(tmp_path / "t.npz", INDEX, embedding_dim=2)
    np.savez(tmp_path / "t.npz", ids=np.array(["a", {}], object), vectors=VECTORS)
    with pytest.raises(UserError, match="not readable"):
        load_imported_table(tmp_path / "t.npz", INDEX, embedding_dim=2)
    save_file({"vectors": VECTORS}, tmp_path / "t.safetensors")
    with pytest.raises(UserError, match="metadata field ids"):
        load_imported_table(tmp_path / "t.safetensors", INDEX, embedding_dim=2)
    (tmp_path / "t.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match="not readable"):
        load_imported_table(tmp_path / "t.parquet", INDEX, embedding_dim=2)
    pq.write_table(pa.table({"id": ["a"], "x": [1.0]}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match="no column item_id; its columns are id, x"):
        read_item_ids(tmp_path / "t.parquet")
