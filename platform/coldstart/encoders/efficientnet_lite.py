"""EfficientNet-Lite0, an image tower that encodes tens of images per second on one core.

transformers has the full EfficientNet only, with squeeze-and-excitation and another activation. Importing this module
lets `AutoModel` load a checkpoint of this family. Architecture and names of weights: Tan & Le 2019, arXiv:1905.11946,
and its Lite variant for devices **[R]**.

Legend: `B` images, `S` pixels per side.
"""

from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndNoAttention

STAGES = (
    # layers, kernel, stride, expansion, width
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM, HEAD = 32, 1280


class EfficientNetLiteConfig(PretrainedConfig):  # type: ignore[misc]
    """Configuration of the one size that there is.

    Args:
        image_size: `S`; any size works, the weights were trained with 224.
    """

    model_type = "efficientnet_lite"

    def __init__(self, image_size: int = 224, **kwargs: Any) -> None:
        self.image_size = image_size
        self.hidden_size = HEAD
        super().__init__(**kwargs)


class SameConv(nn.Conv2d):
    """A convolution whose output has `ceil(S / stride)` pixels; uneven padding comes last, as in TensorFlow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride=stride, groups=groups, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        """`[B, outputs, ceil(S / stride), ceil(S / stride)]` of `[B, inputs, S, S]`."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        missing = [
            max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in (image.shape[3], image.shape[2])
        ]
        padding = [part for total in missing for part in (total // 2, total - total // 2)]
        return super().forward(F.pad(image, padding) if any(padding) else image)


class ConvUnit(nn.Module):
    """Convolution, batch normalization with the statistics of pre-training, and ReLU6 or nothing."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, linear: bool = False
    ) -> None:
        super().__init__()
        self.conv = SameConv(inputs, outputs, kernel, stride=stride, groups=groups)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3)
        self.linear = linear

    def forward(self, image: Tensor) -> Tensor:
        """`[B, outputs, S', S']`."""
        out: Tensor = self.norm(self.conv(image))
        return out if self.linear else F.relu6(out)

    def train(self, mode: bool = True) -> Self:
        """Statistics of small batches, which differ between ranks, would replace those of pre-training."""
        super().train(mode)
        self.norm.eval()
        return self


class InvertedResidual(nn.Module):
    """Expansion, convolution per channel and projection, added to the input where the shapes allow it."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        expand = [ConvUnit(inputs, inner, 1)] if expansion > 1 else []
        depthwise = ConvUnit(inner, inner, kernel, stride=stride, groups=inner)
        self.units = nn.Sequential(*expand, depthwise, ConvUnit(inner, outputs, 1, linear=True))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, image: Tensor) -> Tensor:
        """`[B, outputs, S', S']`."""
        out: Tensor = self.units(image)
        return image + out if self.residual else out


class EfficientNetLiteModel(PreTrainedModel):  # type: ignore[misc]
    """The network without its classifier."""

    config_class = EfficientNetLiteConfig
    main_input_name = "pixel_values"
    base_model_prefix = "efficientnet_lite"

    def __init__(self, config: EfficientNetLiteConfig) -> None:
        super().__init__(config)
        self.stem = ConvUnit(3, STEM, 3, stride=2)
        blocks, width = [], STEM
        for layers, kernel, stride, expansion, outputs in STAGES:
            for layer in range(layers):
                step = stride if layer == 0 else 1
                blocks.append(InvertedResidual(width, outputs, kernel, stride=step, expansion=expansion))
                width = outputs
        self.blocks = nn.ModuleList(blocks)
        self.head = ConvUnit(width, HEAD, 1)
        self.post_init()

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutputWithPoolingAndNoAttention:
        """The last feature map `[B, 1280, S / 32, S / 32]`, and its mean over pixels `[B, 1280]`."""
        image = self.stem(pixel_values)
        for block in self.blocks:
            image = block(image)
        image = self.head(image)
        return BaseModelOutputWithPoolingAndNoAttention(last_hidden_state=image, pooler_output=image.mean((2, 3)))

    @classmethod
    def of_published(cls, weights: dict[str, Tensor], *, image_size: int) -> Self:
        """The model of the weights as they were published, under the names of the first PyTorch port.

        Args:
            weights: Name -> value; those of the classifier are left out.
            image_size: `S` of the images to encode.

        Raises:
            KeyError: a weight is missing.
            RuntimeError: a weight has another shape.
        """
        model = cls(EfficientNetLiteConfig(image_size=image_size))
        state = {}
        for own, published in _published_units(len(model.blocks)):
            conv, norm = published
            state[f"{own}.conv.weight"] = weights[f"{conv}.weight"]
            for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
                state[f"{own}.norm.{part}"] = weights.get(f"{norm}.{part}", torch.tensor(0))
        model.load_state_dict(state)
        model.eval()
        return model


def _published_units(blocks: int) -> list[tuple[str, tuple[str, str]]]:
    """Our name of each unit, and the published ones of its convolution and normalization."""
    found = [("stem", ("_conv_stem", "_bn0"))]
    for block in range(blocks):
        parts = [("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")]
        # The first block does not expand.
        for unit, (conv, norm) in enumerate(parts[block == 0 :]):
            found.append((f"blocks.{block}.units.{unit}", (f"_blocks.{block}.{conv}", f"_blocks.{block}.{norm}")))
    return [*found, ("head", ("_conv_head", "_bn1"))]


AutoConfig.register(EfficientNetLiteConfig.model_type, EfficientNetLiteConfig)
AutoModel.register(EfficientNetLiteConfig, EfficientNetLiteModel)
