"""Low-rank adapters on the language layers; they exist only during training and are merged before saving."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from coldstart.config.recipe import Lora

ADAPTER = "default"


def add_adapters(mllm: Any, layers: Sequence[nn.Module], settings: Lora) -> None:
    """Adds trainable adapters to every linear module of the given layers of an MLLM."""
    from peft import LoraConfig, inject_adapter_in_model

    linear = {id(part) for layer in layers for part in layer.modules() if isinstance(part, nn.Linear)}
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=[name for name, part in mllm.named_modules() if id(part) in linear],
        bias="none",
    )
    # Injecting freezes all parameters except the adapters.
    trained = [weight for weight in mllm.parameters() if weight.requires_grad]
    inject_adapter_in_model(config, mllm, adapter_name=ADAPTER)
    for weight in trained:
        weight.requires_grad_(True)


def merge_lora(state: dict[str, Tensor], settings: Lora) -> dict[str, Tensor]:
    """The state dict of the MLLM with the adapters merged into the weights."""
    merged = {}
    scale = settings.alpha / settings.rank
    for name, value in state.items():
        if ".lora_" in name:
            continue
        if name.endswith(".base_layer.weight"):
            layer = name.removesuffix(".base_layer.weight")
            down = state[f"{layer}.lora_A.{ADAPTER}.weight"].float()
            up = state[f"{layer}.lora_B.{ADAPTER}.weight"].float()
            value = (value.float() + scale * (up @ down)).to(value.dtype)
        merged[name.replace(".base_layer.", ".")] = value
    return merged
