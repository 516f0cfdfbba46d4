"""Floating-point operations of training on items, counted from the encoder's architecture.

A linear map takes two operations per weight and row in the forward pass, two more if the gradient flows to its input,
and two more if its weight is trained. Attention takes four per width and pair of tokens forward and eight backward. The
common rule of six operations per parameter and token holds for text alone with all weights trained; it does not hold
for frozen towers, adapters, and tokens that only the tower or only the language layers process.

There are two totals. Model operations are those that the task needs: without padding, and only the unmasked half of
causal attention. Hardware operations are those that are executed: they include padding, masked scores and the
recomputation of gradient checkpointing (Chowdhery et al. 2022, arXiv:2204.02311, appendix B). Norms, activation
functions, recomputation inside attention kernels, and the loss are not counted.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from coldstart.encoders import Encoder
from coldstart.encoders.freezing import CONNECTOR_IN_TOWER

Rows = dict[str, NDArray[Any]]


class Flops(NamedTuple):
    """Model operations (needed) and hardware operations (executed)."""

    model: float
    hardware: float


@dataclass
class _Cost:
    """Operations per unit.

    Attributes:
        once: Of the forward and backward pass.
        recomputed: Of the second forward pass of gradient checkpointing.
    """

    once: float = 0.0
    recomputed: float = 0.0


class FlopCounter:
    """Counts the operations of forward and backward passes over rows of `Encoder.prepare`."""

    def __init__(self, encoder: Encoder) -> None:
        """Analyzes the architecture.

        Args:
            encoder: With its final trainable parameters; it may be partitioned.
        """
        config = encoder.mllm.config
        vision, text = config.vision_config, config.get_text_config()
        tower = encoder.mllm.get_encoder("image")
        self._image_token: int = config.image_token_id
        self._patch_values = 3 * _patch_values(vision)
        self._class_tokens = sum(name.endswith("cls_token") for name, _ in tower.named_parameters())
        self._window = _window(vision)
        heads = text.num_attention_heads
        width = {
            "vision_token": vision.hidden_size,
            "token": heads * (getattr(text, "head_dim", None) or text.hidden_size // heads),
        }
        full_attention = getattr(vision, "fullatt_block_indexes", None)
        units = (
            "patch",
            "vision_token",
            "image_token",
            "token",
            "item",
            "vision_token_pair",
            "window_pair",
            "token_pair",
        )
        self._costs = {unit: _Cost() for unit in units}

        flows = False
        checkpointing = any(getattr(part, "gradient_checkpointing", False) for part in encoder.modules())
        for (unit, layer), modules in _sections(encoder):
            # Norms are registered after the linear maps that they precede.
            flows = flows or any(
                weight.requires_grad and not _is_matrix(weight) for module in modules for weight in _own(module)
            )
            linear = [module for module in modules if _size(module)]
            for module in modules:
                trained = any(weight.requires_grad for weight in _own(module))
                if size := _size(module):
                    # Pixels need no gradient, even if a module registered before the patches is trained.
                    self._costs[unit].once += 2.0 * size * (1 + (flows and unit != "patch") + trained)
                flows = flows or trained
            if layer is None:
                continue
            pairs = f"{unit}_pair"
            if unit == "vision_token" and self._window and full_attention is not None and layer not in full_attention:
                pairs = "window_pair"
            self._costs[pairs].once += 4.0 * width[unit] * (1 + 2 * flows)
            if checkpointing and flows:
                # The output of a layer's last map is not needed for the backward pass, so it is not recomputed.
                self._costs[unit].recomputed += 2.0 * sum(_size(module) for module in linear[:-1])
                self._costs[pairs].recomputed += 4.0 * width[unit]

    def count(self, rows: Rows, lengths: NDArray[np.int64], micro_batches: Sequence[NDArray[np.int64]]) -> Flops:
        """Operations of a step.

        Args:
            rows: Rows of `B` items.
            lengths: `[B]` tokens of each row.
            micro_batches: Row indices of each micro-batch, which is padded to one length.
        """
        patches, vision_tokens, vision_token_pairs, window_pairs = self._count_images(rows)
        padded = [(len(index), float(lengths[index].max())) for index in micro_batches]
        image_tokens = float(sum((ids == self._image_token).sum() for ids in rows["input_ids"]))
        counts = {
            "patch": patches,
            "vision_token": vision_tokens,
            "image_token": image_tokens,
            "item": float(len(lengths)),
            "vision_token_pair": vision_token_pairs,
            "window_pair": window_pairs,
        }
        needed = counts | {"token": float(lengths.sum()), "token_pair": float((lengths**2).sum()) / 2}
        executed = counts | {
            "token": sum(size * longest for size, longest in padded),
            "token_pair": sum(size * longest**2 for size, longest in padded),
        }
        return Flops(
            model=sum(cost.once * needed[unit] for unit, cost in self._costs.items()),
            hardware=sum((cost.once + cost.recomputed) * executed[unit] for unit, cost in self._costs.items()),
        )

    def _count_images(self, rows: Rows) -> tuple[float, float, float, float]:
        """Patches, tokens of the vision tower, and pairs of these tokens in full images and in windows."""
        patches = tokens = pairs = in_windows = 0.0
        for index, pixels in enumerate(rows["pixel_values"]):
            # Families with folded inputs have one grid per image; the others have tiles of one size.
            segments = len(pixels) if "image_grid_thw" not in rows and pixels.ndim > 3 else 1
            each = pixels.size / self._patch_values / segments
            patches += segments * each
            tokens += segments * (each + self._class_tokens)
            pairs += segments * (each + self._class_tokens) ** 2
            if self._window:
                _, *sides = np.reshape(rows["image_grid_thw"][index], 3)
                in_windows += math.prod(_sum_of_squares(int(side), self._window) for side in sides)
        return patches, tokens, pairs, in_windows


def _sections(encoder: Encoder) -> Iterator[tuple[tuple[str, int | None], list[nn.Module]]]:
    """Groups of modules in the order of computation, with the unit that each processes and its layer, if it has one."""
    tower, language = encoder.mllm.get_encoder("image"), encoder.mllm.get_decoder()
    layers = _layers(tower) | _layers(language)
    in_tower, in_language = ({id(module) for module in stack.modules()} for stack in (tower, language))
    heads = {id(module) for head in (encoder.pooling, encoder.projection) for module in head.modules()}
    used = {id(module) for module in encoder.mllm.base_model.modules()} | heads

    def section(named: tuple[str, nn.Module]) -> tuple[str, int | None]:
        name, module = named
        if id(module) in heads:
            return "item", None
        if id(module) in in_language:
            return "token", layers.get(id(module))
        if id(module) not in in_tower or CONNECTOR_IN_TOWER.search(name):
            return "image_token", None
        return ("vision_token", layers[id(module)]) if id(module) in layers else ("patch", None)

    computing = [
        (name, module)
        for name, module in encoder.named_modules()
        if id(module) in used and (_size(module) or _own(module))
    ]
    for key, group in groupby(computing, section):
        yield key, [module for _, module in group]


def _layers(stack: nn.Module) -> dict[int, int]:
    """Layer number of each module in the layers of a stack, by id."""
    longest = max((module for module in stack.modules() if isinstance(module, nn.ModuleList)), key=len)
    return {id(module): number for number, layer in enumerate(longest) for module in layer.modules()}


def _own(module: nn.Module) -> list[nn.Parameter]:
    return list(module.parameters(recurse=False))


def _is_matrix(weight: nn.Parameter) -> bool:
    return len(getattr(weight, "ds_shape", weight.shape)) > 1


def _size(module: nn.Module) -> int:
    """Weights of a linear map; 0 for other modules."""
    if isinstance(module, nn.Linear):
        return module.in_features * module.out_features
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        return module.in_channels * module.out_channels * math.prod(module.kernel_size)
    return 0


def _patch_values(vision: Any) -> int:
    """Values of one channel in a patch."""
    side = vision.patch_size
    area = math.prod(side) if isinstance(side, Iterable) else side**2
    return area * int(getattr(vision, "temporal_patch_size", 1))


def _window(vision: Any) -> int:
    """Patches along a side of the attention windows of Qwen2.5-VL; 0 without windows."""
    return vision.window_size // vision.patch_size if hasattr(vision, "window_size") else 0


def _sum_of_squares(side: int, window: int) -> int:
    """Sum of the squared lengths of the windows along a side of `side` patches."""
    full, rest = divmod(side, window)
    return full * window**2 + rest**2
