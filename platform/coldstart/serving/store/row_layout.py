"""Rows of a store as structured arrays: packed from columns, and compared by their columns.

The bytes of a row mean nothing without its columns, so both are always stored together.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from coldstart.config import UserError
from coldstart.data.item_table import ColumnSpec, ColumnSpecs, ItemTable, Rows, check_columns, row_dtype
from coldstart.methods.base import ItemAdaptor

Row = np.void
"""One row of `Rows`."""


def pack_rows(columns: Mapping[str, npt.NDArray[Any]], specs: ColumnSpecs) -> Rows:
    """Rows `[n]` of columns, name -> `[n, ...]`; columns that `specs` does not name are left out."""
    rows: Rows = np.empty(len(next(iter(columns.values()))), row_dtype(specs))
    for name in specs:
        rows[name] = columns[name]
    return rows


def example_row(specs: ColumnSpecs) -> Row:
    """A valid row: small values in columns of floats, zeros in others."""
    row = np.zeros(1, row_dtype(specs))
    for name in specs:
        if row[name].dtype.kind == "f":
            row[name] = 0.1
    one: Row = row[0]
    return one


def stack_rows(rows: Sequence[Row]) -> Rows:
    """Rows `[n]` of single rows with the same columns."""
    stacked: Rows = np.empty(len(rows), rows[0].dtype)
    for position, row in enumerate(rows):
        stacked[position] = row
    return stacked


@torch.inference_mode()
def adapt_table(adaptor: ItemAdaptor, table: ItemTable) -> Rows:
    """The scorer's rows `[n]` of an encoder's table with `n` rows."""
    columns = adaptor(table.select(adaptor.inputs).columns)
    return pack_rows({name: values.numpy() for name, values in columns.items()}, adaptor.outputs)


def dump_columns(specs: ColumnSpecs) -> str:
    """Columns as JSON, in order."""
    return json.dumps([[name, spec.dtype, *spec.shape] for name, spec in specs.items()])


def load_columns(text: str) -> dict[str, ColumnSpec]:
    """The inverse of `dump_columns`."""
    return {name: ColumnSpec(dtype, tuple(shape)) for name, dtype, *shape in json.loads(text)}


def check_layout(found: str, needed: ColumnSpecs, where: str) -> None:
    """Checks that stored rows have exactly the columns of a release.

    Args:
        found: Their columns, from `dump_columns`.
        needed: Columns of the release.
        where: Names the rows in the error.

    Raises:
        UserError: a column is missing, has another type or shape, or there are others.
    """
    if found == dump_columns(needed):
        return
    stored = load_columns(found)
    check_columns(stored, needed, table=where, reader="the release")
    raise UserError(
        f"{where} has the columns {', '.join(stored)}, but the release has {', '.join(needed)}, in this order; "
        "both must be of the same run"
    )
