"""The item encoder of IDProxy: an aligned MLLM."""

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray

from coldstart.data.content import Content
from coldstart.data.item_table import ColumnSpecs
from coldstart.encoders import Encoder
from coldstart.methods.idproxy.scorers import COARSE, STATES, encoder_columns


class ProxyEncoder:
    """The encoder's forward pass over a list of contents.

    Args:
        encoder: In eval mode, on `device`.
        device: Its device.
    """

    def __init__(self, encoder: Encoder, device: torch.device | str) -> None:
        self.encoder, self.device = encoder, device

    @property
    def outputs(self) -> ColumnSpecs:
        """Coarse proxy `[d]` and layer states `[G, D]`."""
        return encoder_columns(self.encoder.width, len(self.encoder.layers), self.encoder.hidden)

    @torch.inference_mode()
    def encode(self, contents: Sequence[Content]) -> dict[str, NDArray[Any]]:
        """Coarse proxies `[n, d]` and layer states `[n, G, D]`, float32."""
        coarse, states = self.encoder(self.encoder.inputs(self.encoder.prepare(contents), self.device))
        return {COARSE: coarse.float().cpu().numpy(), STATES: states.float().cpu().numpy()}
