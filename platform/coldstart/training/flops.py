"""Floating-point operations of training on items, counted from the encoder's architecture.

A linear map takes two operations per weight and row forward, as many again where the gradient runs on to its input, and
as many again where its weight is trained. Attention takes four per width and pair of tokens forward, twice that
backward. Six operations per parameter and token, the rule for text alone with everything trained, follow from it;
frozen towers, adapters, and tokens that only the tower or only the language layers see do not fit that rule.

Two sums are kept. Model operations are those that the task needs: on tokens of the items, and of a causal attention the
half that is not masked. Hardware operations are those that are carried out: padding, masked scores and what gradient
checkpointing computes again are among them (Chowdhery et al. 2022, arXiv:2204.02311, appendix B). Norms, activation
functions, what an attention kernel computes again by itself, and the loss are left out.
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
    """Operations that are needed, and operations that are carried out."""

    model: float
    hardware: float


@dataclass
class _Cost:
    """Operations for each of something.

    Attributes:
        once: Forward and backward.
        again: Forward a second time, under gradient checkpointing.
    """

    once: float = 0.0
    again: float = 0.0


class FlopCounter:
    """Counts the operations of forward and backward passes over rows that `Encoder.prepare` made."""

    def __init__(self, encoder: Encoder) -> None:
        """Goes through the architecture once.

        Args:
            encoder: Already frozen where it will be; it may lie in shards.
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
            "sight": vision.hidden_size,
            "token": heads * (getattr(text, "head_dim", None) or text.hidden_size // heads),
        }
        whole = getattr(vision, "fullatt_block_indexes", None)
        kinds = (
            "patch",
            "sight",
            "picture_token",
            "token",
            "item",
            "sight_pair",
            "window_pair",
            "token_pair",
        )
        self._costs = {kind: _Cost() for kind in kinds}

        flows = False
        checkpointing = any(getattr(part, "gradient_checkpointing", False) for part in encoder.modules())
        for (unit, layer), parts in _sections(encoder):
            # Norms are registered behind the maps that follow them.
            flows = flows or any(
                weight.requires_grad and not _matrix(weight) for part in parts for weight in _own(part)
            )
            maps = [part for part in parts if _size(part)]
            for part in parts:
                trained = any(weight.requires_grad for weight in _own(part))
                if size := _size(part):
                    # Pixels need no gradient, whatever is registered before the patches.
                    self._costs[unit].once += 2.0 * size * (1 + (flows and unit != "patch") + trained)
                flows = flows or trained
            if layer is None:
                continue
            pairs = f"{unit}_pair"
            if unit == "sight" and self._window and whole is not None and layer not in whole:
                pairs = "window_pair"
            self._costs[pairs].once += 4.0 * width[unit] * (1 + 2 * flows)
            if checkpointing and flows:
                # What the last map of a layer puts out is saved by no one, so it is not computed again.
                self._costs[unit].again += 2.0 * sum(_size(part) for part in maps[:-1])
                self._costs[pairs].again += 4.0 * width[unit]

    def count(self, rows: Rows, lengths: NDArray[np.int64], passes: Sequence[NDArray[np.int64]]) -> Flops:
        """Operations of a step.

        Args:
            rows: Of `B` items.
            lengths: `[B]` tokens of each.
            passes: Indices of the rows that are padded to one length and read together.
        """
        patches, sights, sight_pairs, window_pairs = self._pictures(rows)
        padded = [(len(chosen), float(lengths[chosen].max())) for chosen in passes]
        pictured = float(sum((ids == self._image_token).sum() for ids in rows["input_ids"]))
        counts = {
            "patch": patches,
            "sight": sights,
            "picture_token": pictured,
            "item": float(len(lengths)),
            "sight_pair": sight_pairs,
            "window_pair": window_pairs,
        }
        needed = counts | {"token": float(lengths.sum()), "token_pair": float((lengths**2).sum()) / 2}
        done = counts | {
            "token": sum(size * longest for size, longest in padded),
            "token_pair": sum(size * longest**2 for size, longest in padded),
        }
        return Flops(
            model=sum(cost.once * needed[kind] for kind, cost in self._costs.items()),
            hardware=sum((cost.once + cost.again) * done[kind] for kind, cost in self._costs.items()),
        )

    def _pictures(self, rows: Rows) -> tuple[float, float, float, float]:
        """Patches, tokens that the tower makes of them, and pairs of those in whole pictures and in windows."""
        patches = sights = pairs = in_windows = 0.0
        for index, pixels in enumerate(rows["pixel_values"]):
            # Families that fold a picture have one grid for it; the others have tiles of one size.
            segments = len(pixels) if "image_grid_thw" not in rows and pixels.ndim > 3 else 1
            each = pixels.size / self._patch_values / segments
            patches += segments * each
            sights += segments * (each + self._class_tokens)
            pairs += segments * (each + self._class_tokens) ** 2
            if self._window:
                _, *sides = np.reshape(rows["image_grid_thw"][index], 3)
                in_windows += math.prod(_cut(int(side), self._window) for side in sides)
        return patches, sights, pairs, in_windows


def _sections(encoder: Encoder) -> Iterator[tuple[tuple[str, int | None], list[nn.Module]]]:
    """Modules in the order in which they compute: what each sees a row of, its layer if it is in one, and they."""
    tower, language = encoder.mllm.get_encoder("image"), encoder.mllm.get_decoder()
    layers = _layers(tower) | _layers(language)
    in_tower, in_language = ({id(part) for part in stack.modules()} for stack in (tower, language))
    heads = {id(part) for head in (encoder.pooling, encoder.projection) for part in head.modules()}
    read = {id(part) for part in encoder.mllm.base_model.modules()} | heads

    def place(named: tuple[str, nn.Module]) -> tuple[str, int | None]:
        name, part = named
        if id(part) in heads:
            return "item", None
        if id(part) in in_language:
            return "token", layers.get(id(part))
        if id(part) not in in_tower or CONNECTOR_IN_TOWER.search(name):
            return "picture_token", None
        return ("sight", layers[id(part)]) if id(part) in layers else ("patch", None)

    computing = [
        (name, part) for name, part in encoder.named_modules() if id(part) in read and (_size(part) or _own(part))
    ]
    for where, parts in groupby(computing, place):
        yield where, [part for _, part in parts]


def _layers(stack: nn.Module) -> dict[int, int]:
    """Number of the layer that each module of a stack is in."""
    longest = max((part for part in stack.modules() if isinstance(part, nn.ModuleList)), key=len)
    return {id(part): number for number, layer in enumerate(longest) for part in layer.modules()}


def _own(part: nn.Module) -> list[nn.Parameter]:
    return list(part.parameters(recurse=False))


def _matrix(weight: nn.Parameter) -> bool:
    return len(getattr(weight, "ds_shape", weight.shape)) > 1


def _size(part: nn.Module) -> int:
    """Weights that each row meets; 0 for a module that is no linear map."""
    if isinstance(part, nn.Linear):
        return part.in_features * part.out_features
    if isinstance(part, nn.Conv2d | nn.Conv3d):
        return part.in_channels * part.out_channels * math.prod(part.kernel_size)
    return 0


def _patch_values(vision: Any) -> int:
    """Numbers of one channel in a patch."""
    side = vision.patch_size
    area = math.prod(side) if isinstance(side, Iterable) else side**2
    return area * int(getattr(vision, "temporal_patch_size", 1))


def _window(vision: Any) -> int:
    """Patches along a side of the windows that Qwen2.5-VL attends in; 0 where there are none."""
    return vision.window_size // vision.patch_size if hasattr(vision, "window_size") else 0


def _cut(side: int, window: int) -> int:
    """Sum of squares of the lengths that a side of so many patches is cut into."""
    whole, rest = divmod(side, window)
    return whole * window**2 + rest**2
