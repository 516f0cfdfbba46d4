"""The tiny offline MLLM: an InternVL of about a million parameters, written as an ordinary checkpoint directory.

With it the demo, the tests and CPU clusters run the whole pipeline without a download. All code treats it like any
other checkpoint; its weights are random, so coarse alignment trains it from scratch.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

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
from coldstart.config.recipe import INSTRUCTION
from coldstart.encoders.checkpoint import without_video
from coldstart.encoders.prompt import EMB

PATCH = 8
MERGE = 2
VOCABULARY = 2048
IMAGE_TOKENS = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
VIDEO_TOKEN = "<video>"
END, PAD = "<|endoftext|>", "<|pad|>"


def create_tiny_mllm(out: Path, texts: Iterable[str], *, image_size: int, seed: int) -> None:
    """Writes a randomly initialized MLLM and a tokenizer trained on `texts`.

    Args:
        out: Directory to write; `AutoModelForImageTextToText.from_pretrained` loads it.
        texts: All titles and texts of the catalog.
        image_size: Pixels per side of an image.
        seed: For the weights.

    Raises:
        UserError: `image_size` is not a multiple of the merged patch size.
    """
    cell = PATCH * MERGE
    if image_size % cell:
        raise UserError(f"encoder.image_size {image_size} must be a multiple of {cell} for encoder.mllm: tiny")
    tokenizer = train_tokenizer(texts)
    image_tokens = (image_size // cell) ** 2
    # The video processor of this family needs torchvision; images do not need it.
    processor = without_video(InternVLProcessor)(
        image_processor=GotOcr2ImageProcessorPil(
            size={"height": image_size, "width": image_size}, min_patches=1, max_patches=1
        ),
        tokenizer=tokenizer,
        video_processor=None,
        image_seq_length=image_tokens,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = InternVLForConditionalGeneration(_config(tokenizer, image_size, image_tokens))
        _initialize(model)
    out.mkdir(parents=True, exist_ok=True)
    processor.save_pretrained(out)
    model.save_pretrained(out)


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer of byte pairs, trained on `texts`, with the special tokens of the tiny models."""
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
    # The instruction is part of every prompt, so its words should be single tokens.
    tokenizer.train_from_iterator([*[INSTRUCTION] * 1000, *texts], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[EMB],
        extra_special_tokens={**IMAGE_TOKENS, "video_token": VIDEO_TOKEN},
    )


def _config(tokenizer: PreTrainedTokenizerFast, image_size: int, image_tokens: int) -> InternVLConfig:
    return InternVLConfig(
        vision_config={
            "hidden_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 128,
            "image_size": image_size,
            "patch_size": PATCH,
            "layer_scale_init_value": 1.0,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 5,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 1024,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
        },
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKENS["context_image_token"]),
        image_seq_length=image_tokens,
        downsample_ratio=1 / MERGE,
    )


@torch.no_grad()
def _initialize(model: Any) -> None:
    """Initializes the weights so that a few thousand items and a few minutes are enough to train them.

    The usual small constant standard deviation suits large widths and long training. Here every layer preserves the
    variance, and the vision tower starts near where training ends: a cosine basis for patches, sinusoidal positions,
    and mimetic attention (Trockman and Kolter 2023).
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=module.in_features**-0.5)
    depth = model.config.text_config.num_hidden_layers + model.config.vision_config.num_hidden_layers
    for name, weight in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight", "fc2.weight")):
            weight.mul_(depth**-0.5)
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=0.5)

    embeddings = model.model.vision_tower.embeddings
    patches, positions = embeddings.patch_embeddings.projection.weight, embeddings.position_embeddings
    patches.copy_(cosine_basis(len(patches)))
    positions[0, 1:] = 0.5 * sinusoidal_positions(positions.shape[1] - 1, positions.shape[2])
    for layer in model.model.vision_tower.encoder.layer:
        _initialize_mimetic(layer.attention)


def cosine_basis(width: int) -> torch.Tensor:
    """The `width` lowest frequencies of a patch in brightness and two color contrasts: `[width, 3, PATCH, PATCH]`."""
    place = torch.arange(PATCH)
    waves = torch.cos(torch.pi * (place[None] + 0.5) * place[:, None] / PATCH) * (2 / PATCH) ** 0.5
    waves[0] *= 0.5**0.5
    contrasts = torch.nn.functional.normalize(torch.tensor([[1.0, 1, 1], [1, -1, 0], [0.5, 0.5, -1]]), dim=1)
    order = sorted((u + v, u, v, c) for u in range(PATCH) for v in range(PATCH) for c in range(3))[:width]
    return torch.stack([torch.einsum("c,h,w->chw", contrasts[c], waves[u], waves[v]) for _, u, v, c in order])


def sinusoidal_positions(count: int, width: int) -> torch.Tensor:
    """Sine and cosine of row and column of `count` patches in a square: `[count, width]`."""
    side = int(count**0.5)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    frequencies = 100.0 ** -(torch.arange(width // 4) / (width // 4))
    angles = [axis.reshape(-1, 1) * frequencies for axis in (rows, columns)]
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)


def _initialize_mimetic(attention: Any) -> None:
    """Mimics trained attention: queries match similar keys, and the output is subtracted from the state."""
    width, heads = attention.embed_dim, attention.num_heads
    each = width // heads
    eye, std = torch.eye(width), width**-0.5
    for head in range(heads):
        left, values, right = torch.linalg.svd(0.7 * torch.randn(width, width) * std + 0.7 * eye)
        scale, rows = values[:each].sqrt(), slice(head * each, (head + 1) * each)
        attention.q_proj.weight[rows] = (left[:, :each] * scale).T
        attention.k_proj.weight[rows] = (right[:each].T * scale).T
    left, values, right = torch.linalg.svd(0.4 * torch.randn(width, width) * std - 0.4 * eye)
    attention.v_proj.weight.copy_((right.T * values.sqrt()).T)
    attention.projection_layer.weight.copy_(left * values.sqrt())
