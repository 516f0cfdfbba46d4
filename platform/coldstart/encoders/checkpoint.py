"""Opens an MLLM checkpoint, a local directory or a hub name with or without a revision, with `from_pretrained`.

Missing files are reported before any weight is read.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils.logging import disable_progress_bar

from coldstart.config import UserError
from coldstart.encoders.hub import first_line, locate, unavailable
from coldstart.encoders.prompt import EMB

disable_progress_bar()


def load_processor(mllm: str) -> Any:
    """The processor of an MLLM, with `[EMB]` among its tokens.

    Images are always processed by Pillow. `AutoProcessor` would use torchvision where it is installed, which resizes
    differently, so that one item would get different proxies on different machines.

    Raises:
        UserError: the checkpoint is missing or unreachable, or its family does not read images and text.
    """
    config = load_config(mllm)
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING or type(config) not in PROCESSOR_MAPPING:
        raise UserError(
            f"encoder.mllm {mllm} is of type '{config.model_type}', which does not read images; "
            "choose an image-text-to-text checkpoint"
        )
    name, revision = locate(mllm)
    try:
        processor_class = without_video(PROCESSOR_MAPPING[type(config)])
        processor = processor_class.from_pretrained(name, revision=revision, backend="pil")
        image = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    except (OSError, ValueError, ImportError, AttributeError) as error:
        raise UserError(f"encoder.mllm {mllm} {_missing_part(mllm, error)}") from error
    # If the tokenizer files are missing, transformers builds an empty tokenizer of the right class.
    if image is None or image != getattr(config, "image_token_id", image):
        raise UserError(
            f"encoder.mllm {mllm} has no tokenizer in which {processor.image_token} is token {config.image_token_id}; "
            "add its tokenizer.json to the directory"
        )
    if EMB not in processor.tokenizer.get_vocab():
        processor.tokenizer.add_tokens([EMB], special_tokens=True)
    return processor


def _missing_part(mllm: str, error: Exception) -> str:
    name, revision = locate(mllm)
    try:
        AutoImageProcessor.from_pretrained(name, revision=revision, backend="pil")
    except (OSError, ValueError, ImportError):
        return "has no image processor; add preprocessor_config.json to the directory"
    return f"has no complete processor ({first_line(error)}); add the tokenizer's files to the directory"


def load_config(mllm: str) -> Any:
    """The configuration of an MLLM.

    Raises:
        UserError: the checkpoint is missing or unreachable, or needs remote code.
    """
    path = Path(mllm)
    if path.is_dir() and not (path / "config.json").is_file():
        raise UserError(f"encoder.mllm {mllm} is not a checkpoint: config.json is missing")
    if not path.is_dir() and (path.is_absolute() or mllm.startswith(".")):
        raise UserError(f"encoder.mllm {mllm} does not exist")
    name, revision = locate(mllm)
    try:
        config, _ = PreTrainedConfig.get_config_dict(name, revision=revision)
        needs_remote_code = "auto_map" in config and config.get("model_type") not in CONFIG_MAPPING
        if not needs_remote_code:
            return AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise unavailable(mllm, error) from error
    raise UserError(
        f"encoder.mllm {mllm} is of type '{config.get('model_type')}', which needs remote code; trust_remote_code is "
        "always off, so choose a checkpoint whose family is part of transformers"
    )


def load_mllm(mllm: str, *, tokens: int, dtype: str) -> PreTrainedModel:
    """The model, with at least `tokens` token embeddings.

    While a `HfDeepSpeedConfig` of ZeRO stage 3 is alive, the parameters are loaded in partitions.

    Raises:
        UserError: the weights are missing, or no model class fits them.
    """
    name, revision = locate(mllm)
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            name,
            revision=revision,
            dtype=getattr(torch, dtype),
            trust_remote_code=False,
            attn_implementation="sdpa",
        )
    except (OSError, ValueError) as error:
        raise UserError(f"encoder.mllm {mllm} cannot be loaded: {first_line(error)}") from error
    # Checkpoints often have more embeddings than the tokenizer has tokens.
    if tokens > model.config.get_text_config().vocab_size:
        model.resize_token_embeddings(tokens)
    return model


def mllm_on_meta(mllm: str, *, tokens: int) -> PreTrainedModel:
    """The model on the meta device: parameters have shapes but take no memory."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(load_config(mllm))
        if tokens > model.config.get_text_config().vocab_size:
            model.resize_token_embeddings(tokens, mean_resizing=False)
        # Tied embeddings must be counted once.
        model.tie_weights()
    return model


def without_video(processor: type[Any]) -> type[Any]:
    """A processor class for images and text only.

    Video processors need torchvision, and a processor requires all of its attributes.
    """
    attributes: list[str] = processor.get_attributes()
    if "video_processor" not in attributes:
        return processor
    video = attributes.index("video_processor")

    class WithoutVideo(processor):  # type: ignore[misc]
        @classmethod
        def get_attributes(cls) -> list[str]:
            return attributes[:video] + attributes[video + 1 :]

        @classmethod
        def from_args_and_dict(cls, args: list[Any], processor_dict: dict[str, Any], **more: Any) -> Any:
            return super().from_args_and_dict([*args[:video], None, *args[video:]], processor_dict, **more)

    # The class name is written into saved checkpoints.
    WithoutVideo.__name__ = processor.__name__
    return WithoutVideo
