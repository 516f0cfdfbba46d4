"""Imports an ID table from Parquet, npz or safetensors, as embeddings by item index.

Legend: `n` rows of the file, `d` ID width, `V` vocabulary (items + 1; row 0 is OOV).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from coldstart.config import UserError

FORMATS = {
    ".parquet": "columns item_id and either one list of floats or one number column per dimension",
    ".npz": "arrays ids [n] and vectors [n, d]",
    ".safetensors": "a tensor vectors [n, d], and the ids as a JSON list in the metadata field ids",
}


@dataclass(frozen=True)
class IdEmbeddings:
    """ID embeddings by item index.

    Attributes:
        rows: [V, d] float32; zeros for items without a row.
        trained: [V] bool, True for items with a row.
    """

    rows: Tensor
    trained: Tensor


def load_imported_table(path: Path, item_index: Mapping[str, int], *, embedding_dim: int) -> IdEmbeddings:
    """Reads a table and orders it by item index; items that are not in the file have no row.

    Args:
        path: Parquet, npz or safetensors; see `FORMATS`.
        item_index: Item id -> item index, 1..N, of the dataset.
        embedding_dim: `d`, from the recipe.

    Raises:
        UserError: the file is not readable, its width is wrong, ids are missing, duplicate or all unknown, or a row is
            zero or not finite.
    """
    ids, vectors = _read(path)
    if len(ids) != len(vectors):
        raise UserError(f"{path} has {len(ids)} ids but {len(vectors)} vectors; each vector needs the id of its item")
    if vectors.shape[1] != embedding_dim:
        raise UserError(
            f"{path} has vectors of width {vectors.shape[1]}, but ranker.embedding_dim is {embedding_dim}; "
            f"set ranker.embedding_dim: {vectors.shape[1]}"
        )
    check_item_ids(path, ids)
    invalid = ~np.isfinite(vectors).all(1) | ~vectors.any(1)
    _refuse(path, np.asarray(ids)[invalid].tolist(), "rows with NaN, infinity or only zeros", "drop them")
    index = np.array([item_index.get(item_id, 0) for item_id in ids], np.int64)
    if not index.any():
        raise UserError(
            f"none of the {len(ids)} ids in {path} is in the catalog; the file has ids such as "
            f"{_some(ids)}, the catalog has ids such as {_some(list(item_index)[:3])}"
        )
    rows = np.zeros((len(item_index) + 1, embedding_dim), np.float32)
    rows[index[index > 0]] = vectors[index > 0]
    trained = np.zeros(len(rows), np.bool_)
    trained[index[index > 0]] = True
    return IdEmbeddings(torch.from_numpy(rows), torch.from_numpy(trained))


def read_item_ids(path: Path) -> list[str]:
    """Reads the column item_id of a Parquet file.

    Raises:
        UserError: the file or the column does not exist.
    """
    return _ids(path, _parquet(path))


def check_item_ids(path: Path, ids: Sequence[str | None]) -> None:
    """Checks that every row belongs to exactly one item.

    Raises:
        UserError: ids are missing or duplicate.
    """
    no_id = [str(row) for row, item_id in enumerate(ids) if not item_id]
    _refuse(path, no_id, "rows without an item id (row numbers)", "add the ids or drop the rows")
    values, counts = np.unique(np.asarray(ids, np.str_), return_counts=True)
    _refuse(path, values[counts > 1].tolist(), "duplicate item ids", "keep one row per item")


def _read(path: Path) -> tuple[list[Any], NDArray[np.float32]]:
    readers = {".parquet": _read_parquet, ".npz": _read_npz, ".safetensors": _read_safetensors}
    if not path.is_file():
        raise UserError(f"ID table {path} does not exist")
    if path.suffix not in readers:
        raise UserError(f"ID table {path} must end in {', '.join(FORMATS)}")
    try:
        ids, vectors = readers[path.suffix](path)
    except (KeyError, TypeError, ValueError, OSError, SafetensorError, pa.ArrowException) as error:
        if isinstance(error, UserError):
            raise
        reason = str(error).splitlines()[0]
        raise UserError(f"ID table {path} is not readable ({reason}); it must hold {FORMATS[path.suffix]}") from error
    if vectors.ndim != 2 or not len(vectors):
        raise UserError(f"ID table {path} has vectors of shape {list(vectors.shape)}; it must be [n, d] with n > 0")
    return ids, vectors


def _read_parquet(path: Path) -> tuple[list[Any], NDArray[np.float32]]:
    table = _parquet(path)
    ids = _ids(path, table)
    rest = table.drop_columns(["item_id"]).combine_chunks()
    lists = [name for name in rest.column_names if pa.types.is_nested(rest.schema.field(name).type)]
    if len(lists) > 1 or (lists and rest.num_columns > 1):
        raise UserError(f"{path} has columns {', '.join(rest.column_names)}; it must hold {FORMATS['.parquet']}")
    if not lists:
        return ids, np.stack([column.to_numpy().astype(np.float32) for column in rest.columns], 1)
    lengths = pc.list_value_length(rest[lists[0]]).to_numpy()
    if len(set(lengths.tolist())) != 1:
        raise UserError(
            f"{path}: lists of column {lists[0]} have lengths {_some(sorted(set(lengths.tolist())))}; all must be equal"
        )
    flat = pc.list_flatten(rest[lists[0]]).to_numpy()
    return ids, flat.astype(np.float32).reshape(len(ids), -1)


def _read_npz(path: Path) -> tuple[list[Any], NDArray[np.float32]]:
    with np.load(path, allow_pickle=False) as arrays:
        return arrays["ids"].astype(np.str_).tolist(), arrays["vectors"].astype(np.float32)


def _read_safetensors(path: Path) -> tuple[list[Any], NDArray[np.float32]]:
    with safe_open(path, framework="numpy") as file:
        ids = json.loads((file.metadata() or {})["ids"])
        return [None if item_id is None else str(item_id) for item_id in ids], file.get_tensor("vectors").astype(
            np.float32
        )


def _parquet(path: Path) -> pa.Table:
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    return pq.read_table(path)


def _ids(path: Path, table: pa.Table) -> list[Any]:
    if "item_id" not in table.column_names:
        raise UserError(f"{path} has no column item_id; its columns are {', '.join(table.column_names)}")
    ids: list[Any] = table["item_id"].cast(pa.string()).to_pylist()
    return ids


def _refuse(path: Path, invalid: list[Any], what: str, fix: str) -> None:
    if invalid:
        raise UserError(f"{path} has {len(invalid)} {what}: {_some(invalid)}; {fix}")


def _some(values: list[Any], most: int = 5) -> str:
    shown = ", ".join(str(value) for value in values[:most])
    return shown + (", ..." if len(values) > most else "")
