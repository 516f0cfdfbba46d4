"""Opening an MLLM checkpoint: a local directory or a hub name, by the ordinary `from_pretrained` path.

Anything that is missing is found out before a weight is read.
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
from coldstart.encoders.prompt import EMB

disable_progress_bar()


def load_processor(mllm: str) -> Any:
    """The processor of an MLLM, with `[EMB]` among its tokens.

    Pictures go through Pillow on every machine: what `AutoProcessor` takes depends on whether torchvision is installed,
    and two that resize differently would give an item two proxies.

    Raises:
        UserError: it is not there, cannot be reached, or is not of a family that reads pictures and text.
    """
    config = load_config(mllm)
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING or type(config) not in PROCESSOR_MAPPING:
        raise UserError(
            f"encoder.mllm {mllm} is a '{config.model_type}', which reads no pictures; "
            "choose an image-text-to-text checkpoint"
        )
    try:
        processor = without_video(PROCESSOR_MAPPING[type(config)]).from_pretrained(mllm, backend="pil")
        image = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    except (OSError, ValueError, ImportError, AttributeError) as error:
        raise UserError(f"encoder.mllm {mllm} {_lack(mllm, error)}") from error
    # Where its files are missing, transformers makes an empty tokenizer of the right class.
    if image is None or image != getattr(config, "image_token_id", image):
        raise UserError(
            f"encoder.mllm {mllm} has no tokenizer that knows {processor.image_token} as token "
            f"{config.image_token_id}; its directory needs its own tokenizer.json"
        )
    if EMB not in processor.tokenizer.get_vocab():
        processor.tokenizer.add_tokens([EMB], special_tokens=True)
    return processor


def _lack(mllm: str, error: Exception) -> str:
    try:
        AutoImageProcessor.from_pretrained(mllm, backend="pil")
    except (OSError, ValueError, ImportError):
        return "has no image processor; its directory needs preprocessor_config.json"
    return f"has no complete processor ({_first_line(error)}); its directory needs the tokenizer's files"


def load_config(mllm: str) -> Any:
    """The configuration of an MLLM.

    Raises:
        UserError: it is not there or cannot be reached.
    """
    here = Path(mllm)
    if here.is_dir() and not (here / "config.json").is_file():
        raise UserError(f"encoder.mllm {mllm} is no checkpoint: config.json is missing")
    if not here.is_dir() and (here.is_absolute() or mllm.startswith(".")):
        raise UserError(f"encoder.mllm {mllm} does not exist")
    try:
        told, _ = PreTrainedConfig.get_config_dict(mllm)
        own_code = "auto_map" in told and told.get("model_type") not in CONFIG_MAPPING
        if not own_code:
            return AutoConfig.from_pretrained(mllm, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"encoder.mllm {mllm} cannot be opened ({_first_line(error)}); download it and give the local directory"
        ) from error
    raise UserError(
        f"encoder.mllm {mllm} is a '{told.get('model_type')}' that brings its own code (trust_remote_code), which is "
        "never run here; choose a checkpoint of a family that transformers knows"
    )


def load_mllm(mllm: str, *, tokens: int, dtype: str) -> PreTrainedModel:
    """The model itself, with room for `tokens` token embeddings.

    Under a live `HfDeepSpeedConfig` of ZeRO stage 3 its parameters arrive partitioned.

    Raises:
        UserError: no weights, or no model class for them.
    """
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            mllm, dtype=getattr(torch, dtype), trust_remote_code=False, attn_implementation="sdpa"
        )
    except (OSError, ValueError) as error:
        raise UserError(f"encoder.mllm {mllm} cannot be loaded: {_first_line(error)}") from error
    # Checkpoints often hold more rows than the tokenizer has tokens.
    if tokens > model.config.get_text_config().vocab_size:
        model.resize_token_embeddings(tokens)
    return model


def outline_mllm(mllm: str, *, tokens: int) -> PreTrainedModel:
    """The model without weights: its parameters have a shape and take no memory."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(load_config(mllm))
        if tokens > model.config.get_text_config().vocab_size:
            model.resize_token_embeddings(tokens, mean_resizing=False)
        # Weights of the two ends are one where the family says so, and counted once.
        model.tie_weights()
    return model


def without_video(processor: type[Any]) -> type[Any]:
    """A processor class that reads pictures and text only.

    Video processors exist only with torchvision, and a processor insists on all of its parts.
    """
    parts: list[str] = processor.get_attributes()
    if "video_processor" not in parts:
        return processor
    video = parts.index("video_processor")

    class WithoutVideo(processor):  # type: ignore[misc]
        @classmethod
        def get_attributes(cls) -> list[str]:
            return parts[:video] + parts[video + 1 :]

        @classmethod
        def from_args_and_dict(cls, args: list[Any], processor_dict: dict[str, Any], **more: Any) -> Any:
            return super().from_args_and_dict([*args[:video], None, *args[video:]], processor_dict, **more)

    # Its name is written into the checkpoints that it saves.
    WithoutVideo.__name__ = processor.__name__
    return WithoutVideo


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
