"""Which parts of an MLLM are trained: vision tower, connector and language layers, by recipe."""

import re
from dataclasses import dataclass
from typing import Any

from torch import nn

from coldstart.config import UserError
from coldstart.config.recipe import Lora, Trained
from coldstart.config.recipe.encoder import Layers
from coldstart.encoders.lora import add_adapters

# Qwen-VL keeps its connector inside the vision tower.
CONNECTOR_IN_TOWER = re.compile(r"(^|\.|_)merger(_|\.)")


@dataclass(frozen=True, kw_only=True)
class ParameterCount:
    """Parameters of a module.

    Attributes:
        trained: Those that get a gradient.
        frozen: The others.
    """

    trained: int
    frozen: int


def choose_trained(mllm: Any, train: Trained, lora: Lora | None) -> None:
    """Freezes what is not to be trained, and adds adapters where there are to be some.

    Raises:
        UserError: a part has fewer layers than are asked for.
    """
    vision = train.vision if train.vision is not None else ("none" if lora else "all")
    tower, language = mllm.get_encoder("image"), mllm.get_decoder()
    in_language = {id(weight) for weight in language.parameters()}
    connector = {id(weight) for name, weight in tower.named_parameters() if CONNECTOR_IN_TOWER.search(name)}
    in_tower = {id(weight) for weight in tower.parameters()}
    connector |= {id(weight) for weight in mllm.base_model.parameters()} - in_language - in_tower

    mllm.requires_grad_(False)
    _thaw(tower, vision, "encoder.train.vision")
    for weight in mllm.base_model.parameters():
        if id(weight) in connector:
            weight.requires_grad_(train.connector)
    if lora is not None:
        layers = _last(language, train.language, "encoder.train.language")
        add_adapters(mllm, layers, lora)
    else:
        _thaw(language, train.language, "encoder.train.language")


def count_parameters(module: nn.Module) -> ParameterCount:
    """Counts whole parameters, also of a module that lies in shards."""
    # A parameter in shards is empty here; its real size stands in `ds_numel`.
    sizes = [(weight.requires_grad, int(getattr(weight, "ds_numel", weight.numel()))) for weight in module.parameters()]
    trained = sum(size for grows, size in sizes if grows)
    return ParameterCount(trained=trained, frozen=sum(size for _, size in sizes) - trained)


def _thaw(stack: nn.Module, layers: Layers, field: str) -> None:
    """Trains a stack from the first of its chosen layers on: what follows the layers is trained with them."""
    if layers == "all":
        stack.requires_grad_(True)
        return
    chosen = {id(weight) for layer in _last(stack, layers, field) for weight in layer.parameters()}
    begun = False
    for weight in stack.parameters():
        begun = begun or id(weight) in chosen
        weight.requires_grad_(begun)


def _last(stack: nn.Module, layers: Layers, field: str) -> list[nn.Module]:
    # The layers are the longest list of a stack; Qwen3-VL's tower has a shorter one of mergers.
    there = max((list(part) for part in stack.modules() if isinstance(part, nn.ModuleList)), key=len)
    if isinstance(layers, str):
        return there if layers == "all" else []
    if layers > len(there):
        raise UserError(f"{field} {layers} exceeds the {len(there)} layers of this encoder.mllm; lower it or say all")
    return there[-layers:]
