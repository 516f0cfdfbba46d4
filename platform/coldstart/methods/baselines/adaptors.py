"""Adaptors of the baselines: from the encoder's columns to what a baseline's scorer reads, with saved weights.

Legend: `n` items, `d` ID width, `D` MLLM width, `G` layer groups, `w` width of text vectors.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from coldstart.data.item_table import ColumnSpec, ColumnSpecs
from coldstart.methods.base import ItemAdaptor
from coldstart.methods.baselines.item_bias import BIAS, ContentBias
from coldstart.methods.baselines.similarity_scorer import TEXT
from coldstart.methods.idproxy.scorers import COARSE, PROXY, STATES


class SameRow(nn.Module):
    """The same vector for every item.

    Args:
        width: `d`.
    """

    row: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.config = {"width": width}
        self.register_buffer("row", torch.zeros(width))

    def forward(self, column: Tensor) -> Tensor:
        """`[n, d]`, whatever the items' content."""
        return self.row.expand(len(column), -1)


class ScaledProxy(nn.Module):
    """Coarse proxies of a common length."""

    length: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.config = dict[str, int]()
        self.register_buffer("length", torch.ones(()))

    def forward(self, coarse: Tensor) -> Tensor:
        """`[n, d]` of unit vectors `[n, d]`."""
        return coarse * self.length


class ContentToRow(nn.Module):
    """A regression from layer states to ID rows (CB2CF), on standardized inputs and outputs.

    Args:
        groups: `G`.
        state_width: `D`.
        width: `d`.
        units: Units of the hidden layer; 0 for a linear map.
    """

    mean: Tensor
    scale: Tensor
    offset: Tensor
    spread: Tensor

    def __init__(self, groups: int, state_width: int, width: int, units: int) -> None:
        super().__init__()
        self.config = {"groups": groups, "state_width": state_width, "width": width, "units": units}
        size = groups * state_width
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))
        self.register_buffer("offset", torch.zeros(width))
        self.register_buffer("spread", torch.ones(()))
        layers = [nn.Linear(size, units), nn.ReLU(), nn.Linear(units, width)] if units else [nn.Linear(size, width)]
        self.layers = nn.Sequential(*layers)

    def forward(self, states: Tensor) -> Tensor:
        """Predicted ID rows `[n, d]` of layer states `[n, G, D]`."""
        predicted: Tensor = self.layers((states.flatten(1) - self.mean) / self.scale)
        return predicted * self.spread + self.offset


ContentMap = SameRow | ScaledProxy | ContentToRow | ContentBias
MAPS: Mapping[str, type[ContentMap]] = {
    "same_row": SameRow,
    "scaled_proxy": ScaledProxy,
    "content_to_row": ContentToRow,
    "content_bias": ContentBias,
}
"""By the name that a saved adaptor gives them."""


class MappedColumn(ItemAdaptor):
    """Writes one column that a map computes from another, plus a shift that calibrates cold items.

    Args:
        content_map: `[n, ...]` of the column to `[n, s]`.
        source: The column that it reads, one entry.
        target: The column `[s]` that it writes, one entry.
    """

    shift: Tensor

    def __init__(self, content_map: ContentMap, source: ColumnSpecs, target: ColumnSpecs) -> None:
        super().__init__()
        ((self._source, _),), ((self._target, spec),) = source.items(), target.items()
        self.content_map, self.inputs, self.outputs = content_map, source, target
        self.register_buffer("shift", torch.zeros(spec.shape))

    def forward(self, columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`[n, s]`."""
        return {self._target: self.content_map(columns[self._source]) + self.shift}


def same_row(row: Tensor, text: ColumnSpec) -> MappedColumn:
    """A vector `[d]` in the item slot of every item; the column of text vectors tells how many items there are."""
    constant = SameRow(len(row))
    constant.row.copy_(row)
    return _in_slot(constant, {TEXT: text}, len(row))


def scaled_proxy(length: Tensor, coarse: ColumnSpec) -> MappedColumn:
    """Coarse proxies of this length in the item slot."""
    scaled = ScaledProxy()
    scaled.length.copy_(length)
    return _in_slot(scaled, {COARSE: coarse}, *coarse.shape)


def predicted_row(regression: ContentToRow, states: ColumnSpec) -> MappedColumn:
    """Predicted ID rows in the item slot."""
    return _in_slot(regression, {STATES: states}, regression.config["width"])


def item_bias(bias: ContentBias, states: ColumnSpec) -> MappedColumn:
    """A bias from layer states."""
    return MappedColumn(bias, {STATES: states}, {BIAS: ColumnSpec("float32", (1,))})


def _in_slot(content_map: ContentMap, source: ColumnSpecs, width: int) -> MappedColumn:
    return MappedColumn(content_map, source, {PROXY: ColumnSpec("float32", (width,))})
