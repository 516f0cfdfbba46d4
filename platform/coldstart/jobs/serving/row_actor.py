"""The actor of a refresh. It is apart from the job, so that its process does not import MLflow."""

import numpy as np
import pyarrow as pa
import torch

from coldstart.data.content import Content
from coldstart.data.item_table import ItemTable
from coldstart.methods.available import find_method
from coldstart.methods.base import Parts
from coldstart.methods.encoder_actor import EncoderActor
from coldstart.serving.store.row_layout import adapt_table

ROW = "row_bytes"
"""Column with the bytes of the store's rows."""


class RowActor:
    """An actor with the encoder and the adaptor of a release: contents -> rows of the store.

    Args:
        method: Of the release.
        parts: Directories of its models.
        threads: Of PyTorch.
    """

    def __init__(self, method: str, parts: Parts, threads: int) -> None:
        self.encoder = EncoderActor(find_method(method), parts, threads)
        self.adaptor = find_method(method).load_adaptor(parts)

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Appends the bytes of each row, from its title, text and image."""
        contents = [
            Content(*one) for one in zip(*(rows[name].to_pylist() for name in ("title", "text", "image")), strict=True)
        ]
        columns = {name: torch.from_numpy(values) for name, values in self.encoder.encode(contents).items()}
        packed = adapt_table(self.adaptor, ItemTable(columns))
        data = pa.array(packed.view(np.uint8))
        return rows.append_column(ROW, pa.FixedSizeListArray.from_arrays(data, packed.dtype.itemsize))
