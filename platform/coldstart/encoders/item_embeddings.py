"""The encoder's outputs for a catalog: an item table that actors write in parts, and that is then put together.

Legend: `n` items of a part, `N` items of the catalog.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from coldstart.data.item_table import ColumnSpec, ItemTable, ItemTableWriter, write_item_table

MODALITIES = ("image", "text")
"""Modalities by which a sample of items is also encoded alone."""
Columns = Mapping[str, NDArray[Any]]
"""Column -> `[n, ...]`."""
_ITEM, _DIGEST = "item_idx", "digest"
_DIGESTS = "digests.parquet"


def part_file(directory: Path, part: int) -> Path:
    """File of a part; item indices ascend within a part and over the parts."""
    return directory / f"part-{part:05d}.npz"


def write_part(
    directory: Path, part: int, item_idx: NDArray[np.integer], columns: Columns, digests: Sequence[str] | None = None
) -> None:
    """Atomically writes one part.

    Args:
        directory: Is created.
        part: Number of the part.
        item_idx: [n] ascending item indices.
        columns: The encoder's outputs.
        digests: [n] of the encoded contents, by which a later job detects changed contents.
    """
    directory.mkdir(parents=True, exist_ok=True)
    file = part_file(directory, part)
    draft = file.with_name(f".{file.stem}.draft-{os.getpid()}.npz")
    arrays: dict[str, Any] = {_ITEM: item_idx, **columns}
    if digests is not None:
        arrays[_DIGEST] = np.array(digests, str)
    np.savez(draft, **arrays)
    draft.replace(file)


def join_parts(directory: Path, table: Path, *, num_items: int) -> None:
    """Writes the item table of the catalog from all its parts, and those of single modalities.

    Args:
        directory: Has the parts, and those of single modalities in their own directories.
        table: Directory of the item table.
        num_items: `N`; row 0, the unknown item, is zeros.
    """
    writer, digests = None, list[str]()
    for file in sorted(directory.glob("part-*.npz")):
        columns = _read(file)
        item_idx = columns.pop(_ITEM)
        digests += columns.pop(_DIGEST, np.zeros(0, str)).tolist()
        if writer is None:
            writer = ItemTableWriter(table, _specs(columns), num_items + 1)
        writer.write(item_idx, columns)
    if writer is not None:
        writer.close()
    if digests:
        write_digests(table, digests)
    for modality in MODALITIES:
        parts = [_read(file) for file in sorted(single_modality_dir(directory, modality).glob("part-*.npz"))]
        if parts:
            joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            write_item_table(single_modality_dir(table, modality), joined)


def single_modality_dir(path: Path, modality: str) -> Path:
    """Directory for a sample of items that are encoded from one modality only."""
    return path / "single_modality" / modality


def read_single_modality(path: Path, modality: str) -> tuple[NDArray[np.int64], ItemTable] | None:
    """Outputs for a sample of items that were encoded from one modality only.

    Args:
        path: Directory of the item table.
        modality: One of MODALITIES.

    Returns:
        Ascending item indices [n], and a table with one row per index; None if there is none.
    """
    directory = single_modality_dir(path, modality)
    if not directory.is_dir():
        return None
    table = ItemTable.open(directory)
    return table.columns[_ITEM].numpy(), table.select(name for name in table.columns if name != _ITEM)


def content_digests(path: Path) -> pa.ChunkedArray | None:
    """Digests [N] of the encoded contents, in order of item index; None if the table has none."""
    file = path / _DIGESTS
    return pq.read_table(file)[_DIGEST] if file.is_file() else None


def write_digests(path: Path, digests: Sequence[str]) -> None:
    """Writes the digests [N] of the encoded contents into the directory of an item table."""
    pq.write_table(pa.table({_DIGEST: pa.array(digests, pa.string())}), path / _DIGESTS)


def _read(file: Path) -> dict[str, NDArray[Any]]:
    with np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _specs(columns: Columns) -> dict[str, ColumnSpec]:
    return {name: ColumnSpec(values.dtype.name, values.shape[1:]) for name, values in columns.items()}
