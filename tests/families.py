"""Tiny random checkpoints of every MLLM family, created offline in the format of `save_pretrained`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GotOcr2ImageProcessorPil,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessorPil,
    SmolVLMProcessor,
)

from coldstart.encoders.checkpoint import without_video

TEXTS = ["red round vase with stripes", "blue steel lamp", "a small box of old paper"]
TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}
QWEN_SPECIAL_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")


def make_family(name: str, path: Path, *, seed: int = 0, **text: Any) -> Path:
    """Writes the checkpoint of a family in `FAMILIES` into a new directory; `text` overrides its language config.

    Like any pre-trained one its tokenizer does not know `[EMB]`, and it has no spare token embeddings.
    """
    torch.manual_seed(seed)
    FAMILIES[name](path / name, text)
    return path / name


def _tokenizer(special_tokens: Sequence[str], **named: str) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<end>", *special_tokens],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(TEXTS * 20, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<end>",
        extra_special_tokens=named or list(special_tokens),
    )


def _write(path: Path, processor: Any, model: Any) -> None:
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=weight[0].numel() ** -0.5)
    processor.save_pretrained(path)
    model.save_pretrained(path)


def _qwen2_5_vl(path: Path, text: dict[str, Any]) -> None:
    tokenizer = _tokenizer(QWEN_SPECIAL_TOKENS)
    start, end, image, video = tokenizer.convert_tokens_to_ids(list(QWEN_SPECIAL_TOKENS))
    size = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 64}
    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": 3,
            "hidden_size": 32,
            "num_heads": 2,
            "intermediate_size": 32,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [1],
        },
        text_config={**_text_config(tokenizer, text), "rope_parameters": _rope()},
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    processor = without_video(Qwen2_5_VLProcessor)(Qwen2VLImageProcessorPil(size=size), tokenizer)
    _write(path, processor, Qwen2_5_VLForConditionalGeneration(config))


def _qwen3_vl(path: Path, text: dict[str, Any]) -> None:
    tokenizer = _tokenizer(QWEN_SPECIAL_TOKENS)
    start, end, image, video = tokenizer.convert_tokens_to_ids(list(QWEN_SPECIAL_TOKENS))
    size = {"shortest_edge": 32 * 32, "longest_edge": 32 * 32 * 64}
    config = Qwen3VLConfig(
        vision_config={
            "depth": 3,
            "hidden_size": 32,
            "num_heads": 2,
            "intermediate_size": 32,
            "out_hidden_size": 32,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
        text_config={**_text_config(tokenizer, text), "head_dim": 16, "rope_parameters": _rope()},
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    images = Qwen2VLImageProcessorPil(size=size, patch_size=16)
    processor = without_video(Qwen3VLProcessor)(images, tokenizer)
    _write(path, processor, Qwen3VLForConditionalGeneration(config))


def _internvl(path: Path, text: dict[str, Any]) -> None:
    names = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    names["video_token"] = "<video>"
    tokenizer = _tokenizer(list(names.values()), **names)
    config = InternVLConfig(
        vision_config={
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "image_size": 28,
            "patch_size": 14,
        },
        text_config={**_text_config(tokenizer, text), "model_type": "qwen2"},
        image_token_id=tokenizer.context_image_token_id,
        image_seq_length=1,
    )
    images = GotOcr2ImageProcessorPil(size={"height": 28, "width": 28})
    processor = without_video(InternVLProcessor)(images, tokenizer, video_processor=None, image_seq_length=1)
    _write(path, processor, InternVLForConditionalGeneration(config))


def _smolvlm(path: Path, text: dict[str, Any]) -> None:
    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    tokenizer = _tokenizer(["<fake_token_around_image>", "<image>", "<global-img>", "<end_of_utterance>", *tiles])
    config = SmolVLMConfig(
        vision_config={
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "image_size": 28,
            "patch_size": 14,
        },
        text_config={**_text_config(tokenizer, text), "model_type": "llama", "head_dim": 16},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    images = SmolVLMImageProcessorPil(size={"longest_edge": 4 * 28}, max_image_size={"longest_edge": 28})
    processor = without_video(SmolVLMProcessor)(images, tokenizer, video_processor=None, image_seq_len=1)
    _write(path, processor, SmolVLMForConditionalGeneration(config))


FAMILIES: dict[str, Callable[[Path, dict[str, Any]], None]] = {
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "internvl": _internvl,
    "smolvlm": _smolvlm,
}


def _text_config(tokenizer: PreTrainedTokenizerFast, text: dict[str, Any]) -> dict[str, Any]:
    return {
        **TEXT,
        "num_key_value_heads": 2,
        **text,
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
    }


def _rope() -> dict[str, Any]:
    return {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
