"""The proxies artifact: coarse proxies and layer states of every item, ordered by item index."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from coldstart.config import UserError

SHOWN = ("picture", "words")
"""What an item can be read by alone."""


def proxy_table(
    item_idx: np.ndarray, coarse: np.ndarray, states: np.ndarray, digests: Sequence[str] | None = None
) -> pa.Table:
    """Rows of the artifact.

    Args:
        item_idx: [B] item indices.
        coarse: [B, d] coarse proxies.
        states: [B, G, D] layer states.
        digests: [B] of the contents that were read; without them nobody can tell later which contents changed.
    """
    columns = {
        "item_idx": pa.array(item_idx, pa.int32()),
        "coarse": _lists(coarse),
        "states": _lists(states.reshape(len(states), -1)),
    }
    return pa.table(columns if digests is None else {**columns, "digest": pa.array(digests, pa.string())})


def write_proxies(path: Path, table: pa.Table, *, part: int = 0) -> None:
    """Writes one part into `path`/proxies, sorted by item index; it is there whole or not at all."""
    file = part_file(path, part)
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.draft-{os.getpid()}")
    pq.write_table(table.sort_by("item_idx"), draft, row_group_size=4096)
    draft.replace(file)


def part_file(path: Path, part: int) -> Path:
    """File of one part; parts hold ascending item indices."""
    return path / "proxies" / f"part-{part:05d}.parquet"


def read_proxies(path: Path, num_items: int, *, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Proxies by item index.

    Args:
        path: Directory of the artifact.
        num_items: Items `N` in the dataset.
        groups: G.

    Returns:
        coarse `[N+1, d]` and states `[N+1, G, D]`, float32; row 0 is zeros.

    Raises:
        UserError: the artifact was made for another number of items.
    """
    parts = sorted((path / "proxies").glob("part-*.parquet"))
    table = pa.concat_tables([pq.read_table(part, columns=["item_idx", "coarse", "states"]) for part in parts])
    index = table["item_idx"].to_numpy()
    if not np.array_equal(index, np.arange(1, num_items + 1)):
        raise UserError(
            f"{path} holds proxies of {len(index)} items but the dataset has {num_items}; embed the items anew"
        )
    coarse, states = (_rows(table[name]) for name in ("coarse", "states"))
    zero = ((1, 0), (0, 0))
    return np.pad(coarse, zero), np.pad(states, zero).reshape(num_items + 1, groups, -1)


def partial_dir(path: Path, shown: str) -> Path:
    """Where proxies of a sample of items stand that were read with only one modality `shown`, laid out as `path` is."""
    return path / "partial" / shown


def read_partial(path: Path, shown: str, *, groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Readings of a sample of items with one modality shown.

    Args:
        path: Directory of the artifact.
        shown: One of SHOWN.
        groups: G.

    Returns:
        [n] item indices, ascending, coarse `[n, d]` and states `[n, G, D]`; None if the artifact has no such readings.
    """
    parts = sorted((partial_dir(path, shown) / "proxies").glob("part-*.parquet"))
    if not parts:
        return None
    table = pa.concat_tables([pq.read_table(part) for part in parts])
    coarse, states = (_rows(table[name]) for name in ("coarse", "states"))
    return table["item_idx"].to_numpy(), coarse, states.reshape(len(states), groups, -1)


def content_digests(path: Path) -> pa.ChunkedArray | None:
    """[N] digests of the contents that were read, in order of item index; None if the artifact does not tell."""
    parts = sorted((path / "proxies").glob("part-*.parquet"))
    if not all("digest" in pq.read_schema(part).names for part in parts):
        return None
    return pa.concat_tables([pq.read_table(part, columns=["digest"]) for part in parts])["digest"]


def first_proxies(path: Path, most: int, *, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Coarse proxies `[n, d]` and states `[n, G, D]` of items 1 to n, at most `most`, without reading the others."""
    with pq.ParquetFile(sorted((path / "proxies").glob("part-*.parquet"))[0]) as file:
        table = pa.Table.from_batches([next(file.iter_batches(batch_size=most))])
    coarse, states = (_rows(table[name]) for name in ("coarse", "states"))
    return coarse, states.reshape(len(states), groups, -1)


def _lists(rows: np.ndarray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.astype(np.float32).ravel()), rows.shape[1])


def _rows(column: pa.ChunkedArray) -> np.ndarray:
    lists = column.combine_chunks()
    flat: np.ndarray = lists.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(-1, lists.type.list_size).astype(np.float32)
