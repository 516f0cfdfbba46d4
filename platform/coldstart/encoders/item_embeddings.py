"""The proxies artifact: coarse proxies and layer states of every item, ordered by item index."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from coldstart.config import UserError

MODALITIES = ("image", "text")
"""Modalities by which a sample of items is also encoded alone."""
Floats = np.ndarray[Any, np.dtype[np.float32]]


class Proxies(NamedTuple):
    """Coarse proxies and layer states by item index.

    Attributes:
        coarse: `[V, d]`.
        states: `[V, G, D]`.
    """

    coarse: Floats
    states: Floats


def proxy_table(
    item_idx: np.ndarray, coarse: np.ndarray, states: np.ndarray, digests: Sequence[str] | None = None
) -> pa.Table:
    """Rows of the artifact.

    Args:
        item_idx: [B] item indices.
        coarse: [B, d] coarse proxies.
        states: [B, G, D] layer states.
        digests: [B] of the encoded contents, by which a later job detects changed contents.
    """
    columns = {
        "item_idx": pa.array(item_idx, pa.int32()),
        "coarse": _lists(coarse),
        "states": _lists(states.reshape(len(states), -1)),
    }
    return pa.table(columns if digests is None else {**columns, "digest": pa.array(digests, pa.string())})


def write_proxies(path: Path, table: pa.Table, *, part: int = 0) -> None:
    """Atomically writes one part into `path`/proxies, sorted by item index."""
    file = part_file(path, part)
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.draft-{os.getpid()}")
    pq.write_table(table.sort_by("item_idx"), draft, row_group_size=4096)
    draft.replace(file)


def part_file(path: Path, part: int) -> Path:
    """File of a part; item indices ascend over the parts."""
    return path / "proxies" / f"part-{part:05d}.parquet"


def read_proxies(path: Path, num_items: int, *, groups: int) -> Proxies:
    """Reads the proxies of all items.

    Args:
        path: Directory of the artifact.
        num_items: Items `N` in the dataset.
        groups: G.

    Returns:
        coarse `[N+1, d]` and states `[N+1, G, D]`, float32; row 0 is zeros.

    Raises:
        UserError: the artifact holds another number of items.
    """
    parts = sorted((path / "proxies").glob("part-*.parquet"))
    table = pa.concat_tables([pq.read_table(part, columns=["item_idx", "coarse", "states"]) for part in parts])
    index = table["item_idx"].to_numpy()
    if not np.array_equal(index, np.arange(1, num_items + 1)):
        raise UserError(
            f"{path} holds proxies of {len(index)} items but the dataset has {num_items}; run embed_items again"
        )
    coarse, states = (_rows(table[name]) for name in ("coarse", "states"))
    zero = ((1, 0), (0, 0))
    return Proxies(np.pad(coarse, zero), np.pad(states, zero).reshape(num_items + 1, groups, -1))


def single_modality_dir(path: Path, modality: str) -> Path:
    """Directory, with the layout of `path`, for a sample of items that are encoded from one modality only."""
    return path / "single_modality" / modality


def read_single_modality(path: Path, modality: str, *, groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Proxies of a sample of items that were encoded from one modality only.

    Args:
        path: Directory of the artifact.
        modality: One of MODALITIES.
        groups: G.

    Returns:
        Ascending item indices [n], coarse `[n, d]` and states `[n, G, D]`; None if the artifact has none.
    """
    parts = sorted((single_modality_dir(path, modality) / "proxies").glob("part-*.parquet"))
    if not parts:
        return None
    table = pa.concat_tables([pq.read_table(part) for part in parts])
    coarse, states = (_rows(table[name]) for name in ("coarse", "states"))
    return table["item_idx"].to_numpy(), coarse, states.reshape(len(states), groups, -1)


def content_digests(path: Path) -> pa.ChunkedArray | None:
    """Digests [N] of the encoded contents, in order of item index; None if the artifact has none."""
    parts = sorted((path / "proxies").glob("part-*.parquet"))
    if not all("digest" in pq.read_schema(part).names for part in parts):
        return None
    return pa.concat_tables([pq.read_table(part, columns=["digest"]) for part in parts])["digest"]


def read_first_proxies(path: Path, limit: int, *, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Coarse proxies `[n, d]` and states `[n, G, D]` of items 1 to n <= `limit`, without reading the other items."""
    with pq.ParquetFile(sorted((path / "proxies").glob("part-*.parquet"))[0]) as file:
        table = pa.Table.from_batches([next(file.iter_batches(batch_size=limit))])
    coarse, states = (_rows(table[name]) for name in ("coarse", "states"))
    return coarse, states.reshape(len(states), groups, -1)


def _lists(rows: np.ndarray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.astype(np.float32).ravel()), rows.shape[1])


def _rows(column: pa.ChunkedArray) -> np.ndarray:
    lists = column.combine_chunks()
    flat: np.ndarray = lists.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(-1, lists.type.list_size).astype(np.float32)
