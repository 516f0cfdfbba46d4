import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import save_file

from coldstart.config import UserError
from coldstart.rankers.given_table import read_id_table, read_ids

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
def test_every_format_is_laid_out_by_item_index(tmp_path, write, name):
    given = read_id_table(write(tmp_path / name), INDEX, width=2)
    assert given.rows.tolist() == [[0, 0], [3, 4], [0, 0], [1, 2]]
    assert given.trained.tolist() == [False, True, False, True]
    assert given.rows.dtype == torch.float32


def test_numbers_as_ids_are_read_as_their_text(tmp_path):
    np.savez(tmp_path / "t.npz", ids=np.array([7, 9]), vectors=VECTORS)
    assert read_id_table(tmp_path / "t.npz", {"9": 1, "7": 2}, width=2).rows.tolist() == [[0, 0], [3, 4], [1, 2]]


def test_items_outside_the_catalogue_are_left_out(tmp_path):
    given = read_id_table(parquet(tmp_path / "t.parquet", ids=("elsewhere", "b")), INDEX, width=2)
    assert given.rows.tolist() == [[0, 0], [0, 0], [3, 4], [0, 0]]


@pytest.mark.parametrize(
    ("ids", "vectors", "words"),
    [
        (["a", "a"], VECTORS, "1 item ids that stand there more than once: a;"),
        (["a", None], VECTORS, "1 rows without an item id (by place in the file): 1;"),
        (["a", ""], VECTORS, "1 rows without an item id (by place in the file): 1;"),
        (["x", "y"], VECTORS, "none of the 2 ids of .* the file has ids such as x, y, the catalogue such as a, b, c"),
        (["a", "b"], [[1, 2], [np.nan, 1]], "1 rows with NaN, infinity or nothing but zeros: b;"),
        (["a", "b"], [[np.inf, 2], [0, 0]], "2 rows with NaN, infinity or nothing but zeros: a, b;"),
        (["a", "b"], [[1, 2, 3], [1, 2, 3]], "width 3, but ranker.width is 2; set ranker.width: 3"),
        (["a", "b"], [[1, 2], [1]], "lists of column embedding are 1, 2 long"),
        (["a", "b"], [[1, None], [1, 2]], "1 rows with NaN"),
    ],
)
def test_a_bad_table_is_refused_by_name_and_count(tmp_path, ids, vectors, words):
    with pytest.raises(UserError, match=words.replace("(", r"\(").replace(")", r"\)")):
        read_id_table(parquet(tmp_path / "t.parquet", ids, vectors), INDEX, width=2)


def test_files_that_are_no_table_say_what_is_expected(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_id_table(tmp_path / "t.npz", INDEX, width=2)
    (tmp_path / "t.csv").write_text("a,1,2")
    with pytest.raises(UserError, match=r"must end in \.parquet, \.npz, \.safetensors"):
        read_id_table(tmp_path / "t.csv", INDEX, width=2)
    np.savez(tmp_path / "t.npz", vectors=VECTORS)
    with pytest.raises(UserError, match="must hold arrays ids"):
        read_id_table(tmp_path / "t.npz", INDEX, width=2)
    np.savez(tmp_path / "t.npz", ids=np.array(["a"]), vectors=VECTORS)
    with pytest.raises(UserError, match="1 ids but 2 vectors"):
        read_id_table(tmp_path / "t.npz", INDEX, width=2)
    np.savez(tmp_path / "t.npz", ids=np.array(["a", {}], object), vectors=VECTORS)
    with pytest.raises(UserError, match="not readable"):
        read_id_table(tmp_path / "t.npz", INDEX, width=2)
    save_file({"vectors": VECTORS}, tmp_path / "t.safetensors")
    with pytest.raises(UserError, match="metadata field ids"):
        read_id_table(tmp_path / "t.safetensors", INDEX, width=2)
    (tmp_path / "t.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match="not readable"):
        read_id_table(tmp_path / "t.parquet", INDEX, width=2)
    pq.write_table(pa.table({"id": ["a"], "x": [1.0]}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match="no column item_id, but id, x"):
        read_ids(tmp_path / "t.parquet")
