"""Encoders of real size with random weights, and random items, for machines without data or checkpoints."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from coldstart.config.recipe import Encoder as EncoderSettings
from coldstart.config.recipe import Lora, TrainableLayers
from coldstart.encoders import Encoder
from coldstart.training.flops import Rows
from coldstart.training.memory_estimate import MemoryEstimate, estimate_encoder_memory

Inputs = dict[str, Tensor]
IMAGE, VIDEO, START, END, PAD = 0, 1, 2, 3, 4
WIDTH = 64
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
    "190m": {
        "vision_config": {
            "depth": 4,
            "hidden_size": 512,
            "num_heads": 8,
            "intermediate_size": 1536,
            "out_hidden_size": 1024,
            "window_size": 112,
            "fullatt_block_indexes": [3],
        },
        "text_config": {
            "vocab_size": 8192,
            "hidden_size": 1024,
            "intermediate_size": 3584,
            "num_hidden_layers": 12,
            "num_attention_heads": 8,
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
    "all": {"trainable": TrainableLayers()},
    "adapters": {"trainable": TrainableLayers(vision="none"), "lora": Lora()},
    "language": {"trainable": TrainableLayers(vision="none")},
}


def make_encoder(model: str, *, train: str, dtype: torch.dtype, device: str, checkpointing: bool) -> Encoder:
    """An encoder with random weights and a shape of `SHAPES`, on the device."""
    marks = {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": START}
    shape = SHAPES[model]
    # The default special tokens of the family exceed a small vocabulary.
    text_config = shape["text_config"] | {"bos_token_id": None, "eos_token_id": None}
    config = Qwen2_5_VLConfig(
        vision_config=shape["vision_config"],
        text_config=text_config,
        **marks,
        vision_end_token_id=END,
        tie_word_embeddings=True,
    )
    with torch.device(device):
        torch.set_default_dtype(dtype)
        try:
            encoder = Encoder(Qwen2_5_VLForConditionalGeneration(config), None, width=WIDTH)  # type: ignore[arg-type]
            encoder.set_trainable(EncoderSettings(gradient_checkpointing=checkpointing, **TRAINED[train]))
        finally:
            torch.set_default_dtype(torch.float32)
    return encoder.train()


def make_rows(encoder: Encoder, items: int, *, image_size: int, text_tokens: int, seed: int) -> Rows:
    """Random images and text, in the format of `Encoder.prepare`."""
    config = encoder.mllm.config
    vision = config.vision_config
    side = image_size // (vision.patch_size * vision.spatial_merge_size)
    image_tokens, patches = side**2, (side * vision.spatial_merge_size) ** 2
    rng = np.random.default_rng(seed)
    text = rng.integers(PAD + 1, config.get_text_config().vocab_size, (items, text_tokens))
    ids = np.concatenate([np.tile([START, *[IMAGE] * image_tokens, END], (items, 1)), text], axis=1)
    values = 3 * vision.temporal_patch_size * vision.patch_size**2
    grid = [1, side * vision.spatial_merge_size, side * vision.spatial_merge_size]
    return {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "mm_token_type_ids": (ids == IMAGE).astype(np.int64),
        "pixel_values": rng.standard_normal((items, patches, values), dtype=np.float32),
        "image_grid_thw": np.tile(grid, (items, 1, 1)),
    }


def collate(rows: Rows) -> Inputs:
    """Tensors in host memory, in the format of `Encoder.inputs`."""
    folded = ("pixel_values", "image_grid_thw")
    return {name: torch.from_numpy(np.concatenate(rows[name]) if name in folded else rows[name]) for name in rows}


def estimate_memory(model: str, *, train: str, dtype: torch.dtype, checkpointing: bool, **item: int) -> MemoryEstimate:
    """The estimate of `coldstart plan` for such an encoder; `item` as in `make_rows`."""

    def make_meta(with_checkpointing: bool) -> Encoder:
        return make_encoder(model, train=train, dtype=dtype, device="meta", checkpointing=with_checkpointing)

    def longest_item(encoder: Encoder) -> tuple[Inputs, int]:
        rows = make_rows(encoder, 1, seed=0, **item)
        return collate(rows), rows["input_ids"].shape[1]

    return estimate_encoder_memory(make_meta, longest_item, dtype=dtype, checkpointing=checkpointing)
