"""Low-rank adapters on the language layers; they exist only while training and are merged before anything is saved."""

import re
from typing import Any

from torch import Tensor

from coldstart.config.recipe import Lora

TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
CONNECTOR = re.compile(r"\.(multi_modal_projector|merger|connector|modality_projection)\.")
ADAPTER = "default"


def add_lora(mllm: Any, settings: Lora) -> None:
    """Freezes the MLLM, adds adapters to its language layers and leaves the connector trainable."""
    from peft import LoraConfig, inject_adapter_in_model

    mllm.requires_grad_(False)
    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=TARGETS, bias="none"
    )
    inject_adapter_in_model(config, mllm, adapter_name=ADAPTER)
    for name, weight in mllm.named_parameters():
        if CONNECTOR.search(f".{name}"):
            weight.requires_grad_(True)


def merge_lora(state: dict[str, Tensor], settings: Lora) -> dict[str, Tensor]:
    """The state of the MLLM without adapters: each adapted weight with its low-rank change added."""
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
