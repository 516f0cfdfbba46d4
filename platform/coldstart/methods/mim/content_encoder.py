"""The content encoder: two towers and their tensor fusion (MIM, stages 1 and 2).

Legend: `B` items, `k` width.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from coldstart.config import UserError
from coldstart.data.content import Content
from coldstart.data.item_table import ColumnSpecs
from coldstart.encoders.dual_encoder import DualEncoder
from coldstart.methods.mim.columns import CONTENT, content_column
from coldstart.modules.tensor_fusion import TensorFusion

FUSION = "fusion.safetensors"


class ContentEncoder(nn.Module):
    """Maps an item's content to its image, text and fused vectors.

    Args:
        towers: The dual encoder.
    """

    def __init__(self, towers: DualEncoder) -> None:
        super().__init__()
        self.towers = towers
        self.fusion = TensorFusion(towers.width)

    @property
    def width(self) -> int:
        """`k`."""
        return self.towers.width

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`image`, `text` and `item` `[B, k]` of unit norm; zeros where an item lacks what they are made from."""
        image, text = self.towers(inputs)
        known = (inputs["has_image"] | inputs["has_text"]).unsqueeze(-1)
        return {"image": image, "text": text, "item": self.fusion(image, text) * known}

    def save(self, path: Path) -> None:
        """Writes the towers and the fusion into an existing directory."""
        self.towers.save(path)
        save_file(
            {name: value.detach().cpu().contiguous() for name, value in self.fusion.state_dict().items()}, path / FUSION
        )

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> Self:
        """Loads an encoder, in eval mode, from a directory that `save` wrote.

        Raises:
            UserError: a file is missing, or the files do not match each other.
        """
        encoder = cls(DualEncoder.load(path, device))
        try:
            encoder.fusion.load_state_dict(load_file(path / FUSION))
        except (OSError, RuntimeError) as error:
            first = str(error).splitlines()[0]
            raise UserError(f"{path} has no fusion of these towers ({first}); run align_modalities again") from error
        return encoder.to(device).eval()


class FusedContent:
    """The item encoder of MIM: contents to the column `content`.

    Args:
        encoder: In eval mode, on `device`.
        device: Its device.
    """

    def __init__(self, encoder: ContentEncoder, device: torch.device | str) -> None:
        self.encoder, self.device = encoder, device

    @property
    def outputs(self) -> ColumnSpecs:
        """`content` `[k]`."""
        return content_column(self.encoder.width)

    @torch.inference_mode()
    def encode(self, contents: Sequence[Content]) -> dict[str, NDArray[Any]]:
        """Fused vectors `[n, k]`, float32; zeros for items without image and text."""
        towers = self.encoder.towers
        vectors = self.encoder(towers.inputs(towers.rows(contents), self.device))["item"]
        return {CONTENT: vectors.float().cpu().numpy()}
