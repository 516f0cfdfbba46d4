"""Opening an MLLM checkpoint: a local directory or a hub name, by the ordinary `from_pretrained` path.

Anything that is missing is found out before a weight is read.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, PreTrainedModel
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils import is_torchvision_available
from transformers.utils.logging import disable_progress_bar

from coldstart.config import UserError
from coldstart.config.recipe import Encoder as EncoderSettings
from coldstart.encoders.prompt import EMB

disable_progress_bar()


def check_mllm(settings: EncoderSettings, mllm: str | None = None) -> None:
    """Finds out, without reading a weight, whether an encoder can be made as the settings say.

    Args:
        settings: Section of the recipe.
        mllm: Checkpoint that stands for `tiny` once it is made.

    Raises:
        UserError: the MLLM is not there, incomplete, of a family that cannot be read, or has too few layers.
    """
    mllm = mllm or settings.mllm
    if mllm == "tiny":
        return
    load_processor(mllm)
    layers = load_config(mllm).get_text_config().num_hidden_layers
    if settings.layer_groups > layers:
        raise UserError(f"encoder.layer_groups {settings.layer_groups} exceeds the {layers} layers of {mllm}; lower it")


def load_processor(mllm: str) -> Any:
    """The processor of an MLLM, with `[EMB]` among its tokens.

    Raises:
        UserError: it is not there, cannot be reached, or is not of a family that reads pictures and text.
    """
    config = load_config(mllm)
    if type(config) not in PROCESSOR_MAPPING:
        raise UserError(
            f"encoder.mllm {mllm} is a '{config.model_type}', which transformers has no processor for; "
            "choose an image-text-to-text checkpoint"
        )
    try:
        if is_torchvision_available():
            processor = AutoProcessor.from_pretrained(mllm, trust_remote_code=False)
        else:
            processor = without_video(PROCESSOR_MAPPING[type(config)]).from_pretrained(mllm)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(
            f"encoder.mllm {mllm} has no complete processor ({_first_line(error)}); "
            "its directory needs the tokenizer and preprocessor_config.json files"
        ) from error
    if not hasattr(processor, "image_token") or not hasattr(processor, "tokenizer"):
        raise UserError(
            f"encoder.mllm {mllm}: its {type(processor).__name__} has no image token; choose another checkpoint"
        )
    if EMB not in processor.tokenizer.get_vocab():
        processor.tokenizer.add_special_tokens(
            {"additional_special_tokens": [EMB]}, replace_additional_special_tokens=False
        )
    return processor


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
        return AutoConfig.from_pretrained(mllm, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"encoder.mllm {mllm} cannot be opened ({_first_line(error)}); download it and give the local directory"
        ) from error


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


def without_video(processor: type[Any]) -> type[Any]:
    """A processor class that reads pictures and text only.

    Video processors exist only with torchvision, and a processor insists on all of its parts.
    """
    parts = [part for part in processor.get_attributes() if part != "video_processor"]
    return type(processor.__name__, (processor,), {"get_attributes": classmethod(lambda cls: list(parts))})


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
