"""Selects the trainable parts of an MLLM: vision tower, connector and language layers."""

import re
from dataclasses import dataclass
from typing import Any

from torch import nn

from coldstart.config import UserError
from coldstart.config.recipe import Lora, TrainableLayers
from coldstart.config.recipe.encoder import Layers
from coldstart.encoders.lora import add_adapters

# Qwen-VL keeps its connector inside the vision tower.
CONNECTOR_IN_TOWER = re.compile(r"(^|\.|_)merger(_|\.)")


@dataclass(frozen=True, kw_only=True)
class ParameterCount:
    """Numbers of parameters of a module.

    Attributes:
        trained: With gradients.
        frozen: Without.
    """

    trained: int
    frozen: int


def set_trainable(mllm: Any, trainable: TrainableLayers, lora: Lora | None) -> None:
    """Freezes all other parameters, and adds adapters if `lora` is set.

    Raises:
        UserError: a stack has fewer layers than the settings train.
    """
    vision = trainable.vision if trainable.vision is not None else ("none" if lora else "all")
    tower, language = mllm.get_encoder("image"), mllm.get_decoder()
    in_language = {id(weight) for weight in language.parameters()}
    connector = {id(weight) for name, weight in tower.named_parameters() if CONNECTOR_IN_TOWER.search(name)}
    in_tower = {id(weight) for weight in tower.parameters()}
    connector |= {id(weight) for weight in mllm.base_model.parameters()} - in_language - in_tower

    mllm.requires_grad_(False)
    unfreeze_from(tower, vision, "encoder.trainable.vision")
    for weight in mllm.base_model.parameters():
        if id(weight) in connector:
            weight.requires_grad_(trainable.connector)
    if lora is not None:
        layers = _last(language, trainable.language, "encoder.trainable.language")
        add_adapters(mllm, layers, lora)
    else:
        unfreeze_from(language, trainable.language, "encoder.trainable.language")


def count_parameters(module: nn.Module) -> ParameterCount:
    """Counts full parameters, also if they are partitioned over ranks."""
    # A parameter that ZeRO-3 partitions is empty here; `ds_numel` holds its full size.
    sizes = [(weight.requires_grad, int(getattr(weight, "ds_numel", weight.numel()))) for weight in module.parameters()]
    trained = sum(size for requires_grad, size in sizes if requires_grad)
    return ParameterCount(trained=trained, frozen=sum(size for _, size in sizes) - trained)


def unfreeze_from(stack: nn.Module, layers: Layers, field: str) -> None:
    """Freezes a stack up to its first selected layer; the modules after the layers are trained, too.

    Raises:
        UserError: the stack has fewer layers.
    """
    if isinstance(layers, str):
        stack.requires_grad_(layers == "all")
        return
    selected = {id(weight) for layer in _last(stack, layers, field) for weight in layer.parameters()}
    reached = False
    for weight in stack.parameters():
        reached = reached or id(weight) in selected
        weight.requires_grad_(reached)


def _last(stack: nn.Module, layers: Layers, field: str) -> list[nn.Module]:
    # The layers are the longest list of a stack; Qwen3-VL's tower also has a shorter list of mergers.
    lists = [list(part) for part in stack.modules() if isinstance(part, nn.ModuleList)]
    available = max(lists, key=len, default=[])
    if isinstance(layers, str):
        return available if layers == "all" else []
    if layers > len(available):
        raise UserError(
            f"{field} {layers} exceeds the {len(available)} layers of this model; lower it or set it to all"
        )
    return available[-layers:]
