"""A step of coarse alignment on one bare machine: no Ray, no data, no hub; a model of real size with random weights.

    python -m workloads.benchmarks.coarse_gpu --model qwen2.5-vl-3b --micro-batch 32 --train adapters

Prints one JSON line: items and tokens per second with a new batch from host memory at every step and, as the ceiling,
with one batch that stays on the device; model FLOPs utilisation (recomputation not counted); peak memory.
"""

import argparse
import json
import time
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from coldstart.alignment.contrastive import Targets, info_nce
from coldstart.config.recipe import Encoder as EncoderSettings
from coldstart.config.recipe import Lora, Trained
from coldstart.encoders import Encoder
from coldstart.encoders.freezing import count_parameters

Inputs = dict[str, Tensor]
IMAGE, VIDEO, START, END, PAD = 0, 1, 2, 3, 4
SHAPES: dict[str, dict[str, Any]] = {
    "qwen2.5-vl-3b": {
        "vision_config": {
            "depth": 32,
            "hidden_size": 1280,
            "num_heads": 16,
            "intermediate_size": 3420,
            "out_hidden_size": 2048,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
        },
        "text_config": {
            "vocab_size": 151_936,
            "hidden_size": 2048,
            "intermediate_size": 11_008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6},
        },
    },
    "tiny": {
        "vision_config": {
            "depth": 2,
            "hidden_size": 32,
            "num_heads": 2,
            "intermediate_size": 32,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [1],
        },
        "text_config": {
            "vocab_size": 200,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4},
        },
    },
}
TRAINED = {
    "all": {"train": Trained()},
    "adapters": {"train": Trained(vision="none"), "lora": Lora()},
    "language": {"train": Trained(vision="none")},
}


def make_encoder(model: str, *, train: str, dtype: torch.dtype, device: str, checkpointing: bool) -> Encoder:
    """A random encoder of a shape of `SHAPES`, on the device."""
    marks = {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": START}
    config = Qwen2_5_VLConfig(**SHAPES[model], **marks, vision_end_token_id=END, tie_word_embeddings=True)
    with torch.device(device):
        torch.set_default_dtype(dtype)
        try:
            encoder = Encoder(Qwen2_5_VLForConditionalGeneration(config), None, width=64)  # type: ignore[arg-type]
            encoder.choose_trained(EncoderSettings(gradient_checkpointing=checkpointing, **TRAINED[train]))
        finally:
            torch.set_default_dtype(torch.float32)
    return encoder.train()


def make_batch(config: Any, rows: int, *, picture_size: int, text_tokens: int, seed: int) -> Inputs:
    """Random pictures and words as `Encoder.inputs` makes them, in host memory."""
    vision = config.vision_config
    side = picture_size // (vision.patch_size * vision.spatial_merge_size)
    images, patches = side**2, (side * vision.spatial_merge_size) ** 2
    draw = torch.Generator().manual_seed(seed)
    words = torch.randint(PAD + 1, config.text_config.vocab_size, (rows, text_tokens), generator=draw)
    ids = torch.tensor([START, *[IMAGE] * images, END]).expand(rows, -1)
    ids = torch.cat([ids, words], dim=1)
    pixels = 3 * vision.temporal_patch_size * vision.patch_size**2
    grid = [1, side * vision.spatial_merge_size, side * vision.spatial_merge_size]
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == IMAGE).long(),
        "pixel_values": torch.randn(rows * patches, pixels, generator=draw),
        "image_grid_thw": torch.tensor([grid] * rows),
    }


def model_flops(encoder: Encoder, batch: Inputs) -> float:
    """Floating-point operations of one step.

    Two per weight and token forward, in the backward pass as many again for what the gradient runs through, and once
    more for what is trained. Attention counts where it is not windowed.
    """
    config = encoder.mllm.config
    tower, language = encoder.mllm.get_encoder("image"), encoder.mllm.get_decoder()
    rows, length = batch["input_ids"].shape
    patches = len(batch["pixel_values"])
    whole_attention = len(config.vision_config.fullatt_block_indexes) * config.vision_config.hidden_size
    through_tower = any(weight.requires_grad for weight in tower.parameters())
    total = 0.0
    for stack, tokens, backward, quadratic in (
        (tower, patches, through_tower, whole_attention * patches / rows),
        (
            language,
            rows * length,
            True,
            # Half of it is masked.
            config.text_config.num_hidden_layers * config.text_config.hidden_size * length / 2,
        ),
    ):
        matrices = [weight for weight in stack.parameters() if weight.dim() > 1]
        size = sum(weight.numel() for weight in matrices) - (
            language.get_input_embeddings().weight.numel() if stack is language else 0
        )
        trained = sum(weight.numel() for weight in matrices if weight.requires_grad)
        trained = min(trained, size)
        total += 2 * tokens * (size + backward * size + trained) + 4 * tokens * quadratic * (1 + 2 * backward)
    return total


def measure(encoder: Encoder, batches: list[Inputs], *, device: str, steps: int, resident: bool) -> float:
    """Seconds of a step: forward, InfoNCE, backward, clipping, AdamW."""
    rows = len(batches[0]["input_ids"])
    weights = [weight for _, weight in encoder.trainable()]
    optimizer = torch.optim.AdamW(weights, lr=1e-5, fused=device == "cuda")
    ids = torch.nn.functional.normalize(torch.randn(rows, encoder.width, device=device), dim=1)
    targets = Targets(ids, torch.arange(rows, device=device), None)
    there = [_on(batch, device) for batch in batches[:1]] if resident else batches
    began = 0.0
    for step in range(-2, steps):
        if step == 0:
            _wait(device)
            began = time.perf_counter()
        batch = there[step % len(there)]
        coarse, _ = encoder(batch if resident else _on(batch, device))
        info_nce(coarse, targets, targets, temperature=torch.tensor(0.07, device=device)).mean().backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    _wait(device)
    return (time.perf_counter() - began) / steps


def _on(batch: Inputs, device: str) -> Inputs:
    return {name: column.to(device, non_blocking=True) for name, column in batch.items()}


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures both ways and puts the figures together."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, arguments.dtype)
    torch.manual_seed(0)
    encoder = make_encoder(
        arguments.model, train=arguments.train, dtype=dtype, device=device, checkpointing=arguments.checkpointing
    )
    shape = {"picture_size": arguments.picture_size, "text_tokens": arguments.text_tokens}
    batches = [make_batch(encoder.mllm.config, arguments.micro_batch, **shape, seed=seed) for seed in range(2)]
    if device == "cuda":
        batches = [{name: column.pin_memory() for name, column in batch.items()} for batch in batches]
        torch.cuda.reset_peak_memory_stats()
    fresh = measure(encoder, batches, device=device, steps=arguments.steps, resident=False)
    resident = measure(encoder, batches, device=device, steps=arguments.steps, resident=True)
    flops, counts = model_flops(encoder, batches[0]), count_parameters(encoder)
    tokens = batches[0]["input_ids"].numel()
    return {
        "model": arguments.model,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "trained_parameters": counts.trained,
        "frozen_parameters": counts.frozen,
        "micro_batch": arguments.micro_batch,
        "tokens_per_item": tokens // arguments.micro_batch,
        "items_per_second": arguments.micro_batch / fresh,
        "tokens_per_second": tokens / fresh,
        "ceiling_items_per_second": arguments.micro_batch / resident,
        "share_of_ceiling": resident / fresh,
        "model_tflops_per_second": flops / fresh / 1e12,
        "mfu": flops / fresh / 1e12 / arguments.peak_tflops,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None,
    }


def main(given: list[str] | None = None) -> None:
    """Runs as a program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(SHAPES), default="qwen2.5-vl-3b")
    parser.add_argument("--train", choices=sorted(TRAINED), default="adapters")
    parser.add_argument("--micro-batch", type=int, default=32)
    parser.add_argument("--picture-size", type=int, default=448)
    parser.add_argument("--text-tokens", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    parser.add_argument(
        "--peak-tflops", type=float, default=989.0, help="dense peak in this dtype (default: H100/H200)"
    )
    print(json.dumps(run(parser.parse_args(given))))


if __name__ == "__main__":
    main()
