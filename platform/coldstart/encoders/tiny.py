"""The tiny offline MLLM: an InternVL of a few million parameters, written as an ordinary checkpoint directory.

It lets the demo, the tests and CPU clusters run the whole path without a download. Nothing that reads it knows that it
is special: its weights are random, so coarse alignment trains it from scratch.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    GotOcr2ImageProcessorPil,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    PreTrainedTokenizerFast,
)

from coldstart.config import UserError
from coldstart.encoders.checkpoint import without_video
from coldstart.encoders.prompt import CUE, EMB

PATCH = 8
MERGE = 2
VOCABULARY = 2048
IMAGE_TOKENS = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
VIDEO_TOKEN = "<video>"
END, PAD = "<|endoftext|>", "<|pad|>"


def make_mllm(out: Path, texts: Iterable[str], *, picture_size: int, seed: int) -> None:
    """Writes a randomly initialised MLLM whose tokenizer was trained on `texts`.

    Args:
        out: Directory to write; `AutoModelForImageTextToText.from_pretrained` loads it.
        texts: Titles and texts of the catalogue, as many as there are.
        picture_size: Pixels per side of the square it sees.
        seed: Of the weights.

    Raises:
        UserError: `picture_size` is not a multiple of the patch raster.
    """
    raster = PATCH * MERGE
    if picture_size % raster:
        raise UserError(f"encoder.picture_size {picture_size} must be a multiple of {raster} for encoder.mllm: tiny")
    tokenizer = _train_tokenizer(texts)
    seen = (picture_size // raster) ** 2
    # The video processor of this family needs torchvision; a processor without one reads pictures all the same.
    processor = without_video(InternVLProcessor)(
        image_processor=GotOcr2ImageProcessorPil(
            size={"height": picture_size, "width": picture_size}, min_patches=1, max_patches=1
        ),
        tokenizer=tokenizer,
        video_processor=None,
        image_seq_length=seen,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = InternVLForConditionalGeneration(_config(tokenizer, picture_size, seen))
        _start_from_scratch(model)
    out.mkdir(parents=True, exist_ok=True)
    processor.save_pretrained(out)
    model.save_pretrained(out)


def _train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    special = [END, PAD, *IMAGE_TOKENS.values(), VIDEO_TOKEN, EMB]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=2,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # The cue stands in every prompt, so its words deserve tokens of their own.
    tokenizer.train_from_iterator([*[CUE] * 1000, *texts], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[EMB],
        extra_special_tokens={**IMAGE_TOKENS, "video_token": VIDEO_TOKEN},
    )


def _config(tokenizer: PreTrainedTokenizerFast, picture_size: int, seen: int) -> InternVLConfig:
    return InternVLConfig(
        vision_config={
            "hidden_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "intermediate_size": 256,
            "image_size": picture_size,
            "patch_size": PATCH,
            "layer_scale_init_value": 1.0,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(tokenizer),
            "hidden_size": 192,
            "intermediate_size": 384,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 1024,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
        },
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKENS["context_image_token"]),
        image_seq_length=seen,
        downsample_ratio=1 / MERGE,
    )


@torch.no_grad()
def _start_from_scratch(model: InternVLForConditionalGeneration) -> None:
    """Replaces the small constant spread, meant for large widths, by one that keeps variance through each layer."""
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=module.in_features**-0.5)
        elif isinstance(module, torch.nn.Conv2d):
            torch.nn.init.normal_(module.weight, std=(module.in_channels * PATCH * PATCH) ** -0.5)
    depth = model.config.text_config.num_hidden_layers + model.config.vision_config.num_hidden_layers
    for name, weight in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight", "projection_layer.weight", "fc2.weight")):
            weight.mul_(depth**-0.5)
        elif name.endswith("position_embeddings"):
            torch.nn.init.normal_(weight, std=0.2)
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=0.5)
