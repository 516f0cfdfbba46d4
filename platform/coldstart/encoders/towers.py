"""One tower of a dual encoder: any local model of transformers that reads images or texts, and its pooling.

Legend: `B` items, `D` width of the tower's output.
"""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoModel
from transformers.utils import logging

import coldstart.encoders.efficientnet_lite  # noqa: F401  AutoModel loads this family, too.
from coldstart.config import UserError
from coldstart.encoders.hub import first_line

logging.disable_progress_bar()

Pooling = Literal["pooler", "mean", "first"]
"""The model's own pooled output, the mean over attended tokens, or the first token."""
Modality = Literal["image", "text"]
_PARTS = {"image": "vision_model", "text": "text_model"}
_PROJECTIONS = {"image": "visual_projection", "text": "text_projection"}
_OWN_POOLING = ("clip", "siglip", "timm", "efficientnet_lite")
"""Families whose pooled output is what they were trained with."""
_DEFAULT_MEAN, _DEFAULT_STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


class Tower(nn.Module):
    """A model and its pooling.

    Args:
        model: Reads `pixel_values`, or `input_ids` and `attention_mask`.
        pooling: See `Pooling`.
        hidden: `D`.
        projection: `[k, D]` with which the model was trained, as in CLIP; None if it has none.
    """

    def __init__(self, model: Any, pooling: Pooling, hidden: int, projection: Tensor | None = None) -> None:
        super().__init__()
        if pooling != "pooler" and isinstance(getattr(model, "pooler", None), nn.Module):
            # Checkpoints often lack it, and then it is random in every process.
            model.pooler = None
        self.model = model
        self.projection = projection
        self.pooling = pooling
        self.hidden = hidden

    def forward(self, **inputs: Tensor) -> Tensor:
        """Pooled outputs `[B, D]`, float32."""
        output = self.model(**inputs)
        if self.pooling == "pooler":
            pooled: Tensor = output.pooler_output.flatten(1)
            return pooled.float()
        states: Tensor = output.last_hidden_state.float()
        if self.pooling == "first":
            return states[:, 0]
        mask = inputs.get("attention_mask")
        if mask is None:
            return states.mean(dim=1)
        weights = mask.unsqueeze(-1).float()
        return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def open_tower(path: Path, modality: Modality, pooling: Pooling | None = None) -> Tower:
    """Loads one tower from a checkpoint directory; of a checkpoint with both, such as CLIP, the part of this modality.

    Args:
        path: Local directory that `AutoModel` loads; those of timm need the package timm.
        modality: What the tower reads.
        pooling: None for the pooling that suits the family.

    Raises:
        UserError: the directory is no checkpoint, its weights are incomplete, or it reads something else.
    """
    if not (path / "config.json").is_file():
        raise UserError(f"the {modality} tower {path} is not a checkpoint: config.json is missing; give a directory")
    try:
        model, loading = load_model(path)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"the {modality} tower {path} cannot be loaded: {first_line(error)}") from error
    # A pooler that a checkpoint lacks is new and random; nothing reads it unless the pooling is `pooler`.
    missing = [name for name in loading["missing_keys"] if "pooler" not in name or pooling == "pooler"]
    if missing:
        raise UserError(f"the {modality} tower {path} lacks the weights of {missing[0]}; give a complete checkpoint")
    projection = getattr(getattr(model, _PROJECTIONS[modality], None), "weight", None)
    tower = tower_of(getattr(model, _PARTS[modality], model).eval(), modality, pooling)
    tower.projection = None if projection is None else projection.detach()
    return tower


def load_model(path: Path) -> tuple[Any, dict[str, Any]]:
    """The float32 model of a checkpoint directory, and which weights it lacks; prints no report of them."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        model, loading = AutoModel.from_pretrained(
            path, trust_remote_code=False, output_loading_info=True, dtype=torch.float32
        )
    finally:
        logging.set_verbosity(verbosity)
    return model, loading


def tower_of(model: Any, modality: Modality, pooling: Pooling | None = None) -> Tower:
    """A tower of a loaded model; a forward pass of one item tells its width and whether it pools itself."""
    size, tokens = image_size(model.config), torch.ones(1, 4, dtype=torch.int64)
    pixels = {"pixel_values": torch.zeros(1, 3, size, size)}
    try:
        with torch.inference_mode():
            output = model(**(pixels if modality == "image" else {"input_ids": tokens, "attention_mask": tokens}))
    except (TypeError, ValueError) as error:
        raise UserError(f"a model of type {model.config.model_type} cannot be the {modality} tower: {error}") from error
    own = model.config.model_type.startswith(_OWN_POOLING) or output.last_hidden_state.dim() == 4
    pooling = pooling or ("pooler" if own else "mean")
    if pooling == "pooler":
        if getattr(output, "pooler_output", None) is None:
            raise UserError(f"{model.config.model_type} has no pooled output; choose the pooling mean or first")
        return Tower(model, pooling, output.pooler_output.flatten(1).shape[1])
    return Tower(model, pooling, output.last_hidden_state.shape[-1])


def image_size(config: Any) -> int:
    """Pixels per side that a vision model was made for; 224 if its configuration does not tell."""
    size = getattr(config, "image_size", None)
    if size is None and (timm := getattr(config, "pretrained_cfg", None)):
        size = timm.get("input_size", [3, 224, 224])[-1]
    return int(size[0] if isinstance(size, list | tuple) else size or 224)


def pixel_statistics(path: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of a color channel, of 0 to 1, with which a checkpoint was trained."""
    for file, keys in (("preprocessor_config.json", ("image_mean", "image_std")), ("config.json", ("mean", "std"))):
        if not (path / file).is_file():
            continue
        found = json.loads((path / file).read_text())
        found = found.get("pretrained_cfg", found)
        if all(isinstance(found.get(key), list) for key in keys):
            return tuple(found[keys[0]]), tuple(found[keys[1]])
    return _DEFAULT_MEAN, _DEFAULT_STD
