"""The item table: named tensors per item, which an item encoder writes and a scorer reads.

Legend: `V` rows (items + 1; row 0 is the unknown item).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from coldstart.config import UserError

ROWS_PER_PASS = 4096
"""Rows of a table that a model is applied to at a time."""
Rows = npt.NDArray[np.void]
"""Rows of a table as a structured array, with one field per column."""


@dataclass(frozen=True)
class ColumnSpec:
    """Type and shape of one item's value in a column.

    Attributes:
        dtype: Name of the NumPy type, such as `float32` or `int16`.
        shape: Without the item axis; `()` for a number.
    """

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


ColumnSpecs = Mapping[str, ColumnSpec]


def row_dtype(specs: ColumnSpecs) -> np.dtype[np.void]:
    """The structured type of a row with these columns; its bytes are what stores and messages hold."""
    return np.dtype([(name, np.dtype(spec.dtype).newbyteorder("<"), spec.shape) for name, spec in specs.items()])


@lru_cache
def specs_of(dtype: np.dtype[np.void]) -> ColumnSpecs:
    """The columns of a structured row type, the inverse of `row_dtype`."""
    fields = {name: dtype.fields[name][0] for name in dtype.names or ()} if dtype.fields else {}
    return {name: ColumnSpec(field.base.name, tuple(field.shape)) for name, field in fields.items()}


class ItemTable:
    """Named tensors with one row per item, on disk or in memory.

    Args:
        columns: Name -> `[V, ...]`; all have the same `V`. Row 0 is the unknown item.

    Attributes:
        columns: As given.
    """

    def __init__(self, columns: Mapping[str, Tensor]) -> None:
        lengths = {name: len(values) for name, values in columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns of an item table have different lengths: {lengths}")
        self.columns = dict(columns)

    def __len__(self) -> int:
        return max((len(values) for values in self.columns.values()), default=0)

    @property
    def specs(self) -> dict[str, ColumnSpec]:
        """The columns' types and shapes."""
        return {
            name: ColumnSpec(str(values.dtype).removeprefix("torch."), tuple(values.shape[1:]))
            for name, values in self.columns.items()
        }

    def gather(self, rows: Tensor) -> dict[str, Tensor]:
        """Values of rows `[...]` in every column, `[..., *shape]`, on the device of `rows`.

        Only the pages of these rows are read from a table on disk.
        """
        shape, flat = rows.shape, rows.flatten()
        return {
            name: values.index_select(0, flat.to(values.device)).to(rows.device).view(*shape, *values.shape[1:])
            for name, values in self.columns.items()
        }

    def select(self, names: Iterable[str]) -> "ItemTable":
        """The table with only these columns."""
        return ItemTable({name: self.columns[name] for name in names})

    def passes(self, device: torch.device | str = "cpu") -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Row numbers and their values, `ROWS_PER_PASS` rows at a time, on a device; all rows in order."""
        for rows in torch.split(torch.arange(len(self), device=device), ROWS_PER_PASS):
            yield rows, self.gather(rows)

    @classmethod
    def from_rows(cls, rows: Rows) -> Self:
        """A table of structured rows `[V]`, in memory."""
        # Copied: torch accepts neither read-only memory nor the strides of a field between others.
        return cls({name: torch.from_numpy(rows[name].copy()) for name in rows.dtype.names or ()})

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Maps a table from disk: a process holds only the pages that it touches.

        Raises:
            UserError: the directory holds no table.
        """
        files = sorted(directory.glob("*.npy"))
        if not files:
            raise UserError(f"no item table at {directory}; run the embed_items stage first")
        # Copy-on-write: torch wants writable memory, and nothing is ever written to the file.
        return cls({file.stem: torch.from_numpy(np.load(file, mmap_mode="c")) for file in files})


class ItemTableWriter:
    """Writes a table column by column files, in any order of rows, without holding it in memory.

    Rows that are never written are zeros.

    Args:
        directory: Is created.
        specs: The columns.
        num_rows: `V`.
    """

    def __init__(self, directory: Path, specs: ColumnSpecs, num_rows: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._columns: dict[str, npt.NDArray[Any]] = {
            name: np.lib.format.open_memmap(
                directory / f"{name}.npy", mode="w+", dtype=np.dtype(spec.dtype), shape=(num_rows, *spec.shape)
            )
            for name, spec in specs.items()
        }

    def write(self, rows: npt.NDArray[np.integer[Any]] | slice, values: Mapping[str, npt.NDArray[Any]]) -> None:
        """Writes `values`, name -> `[n, ...]`, to `rows` `[n]`."""
        for name, column in self._columns.items():
            column[rows] = values[name]

    def close(self) -> None:
        """Writes what the operating system still buffers."""
        for column in self._columns.values():
            column.flush()  # type: ignore[attr-defined]
        self._columns = {}


def write_item_table(directory: Path, columns: Mapping[str, npt.NDArray[Any]]) -> None:
    """Writes a table whose columns are in memory: name -> `[V, ...]`."""
    specs = {name: ColumnSpec(values.dtype.name, values.shape[1:]) for name, values in columns.items()}
    writer = ItemTableWriter(directory, specs, max(map(len, columns.values())))
    writer.write(slice(None), columns)
    writer.close()


def check_columns(found: ColumnSpecs, needed: ColumnSpecs, *, table: str, reader: str) -> None:
    """Checks that a table has the columns that a model reads.

    Args:
        found: Columns of the table; it may have others, too.
        needed: Columns that are read.
        table: Name of the table in the error.
        reader: Name of the model in the error.

    Raises:
        UserError: a column is missing, or has another type or shape.
    """
    for name, spec in needed.items():
        if name not in found:
            raise UserError(
                f"{reader} reads the column '{name}' {spec}, but {table} has only {', '.join(found) or 'no columns'}; "
                "both must be of the same method and run"
            )
        if found[name] != spec:
            raise UserError(
                f"{reader} reads '{name}' as {spec}, but {table} has {found[name]}; both must be of the same run"
            )
