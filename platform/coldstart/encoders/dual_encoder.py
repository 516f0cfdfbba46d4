"""The dual encoder: an image tower and a text tower, projected into one space, beside MLLMs.

Legend: `B` items, `k` width of the common space, `D` width of a tower, `S` pixels per side.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoTokenizer

from coldstart.config import UserError
from coldstart.config.recipe import Modalities
from coldstart.config.recipe.encoder import Layers
from coldstart.data.content import Content, InvalidImageError, decode_image
from coldstart.encoders.freezing import unfreeze_from
from coldstart.encoders.hub import first_line
from coldstart.encoders.image_preprocessing import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS, pad_to_square
from coldstart.encoders.towers import Tower, load_model, open_tower, pixel_statistics
from coldstart.encoders.towers import image_size as size_of

CONFIG, PROJECTIONS = "dual_encoder.json", "projections.safetensors"
Rows = dict[str, NDArray[Any]]


class ContentRows:
    """Turns content into arrays: squares of pixels, and token ids. Picklable, so that data workers can run it.

    Args:
        tokenizer: Of the text tower.
        image_size: `S`.
        max_text_tokens: Longest text in tokens.
        content: Modalities in use.
    """

    def __init__(self, tokenizer: Any, *, image_size: int, max_text_tokens: int, content: Modalities) -> None:
        self.tokenizer = tokenizer
        self.image_size = image_size
        self.max_text_tokens = min(max_text_tokens, int(tokenizer.model_max_length))
        self.content = content

    def __call__(self, contents: Sequence[Content]) -> Rows:
        """The arrays of `B` items.

        `pixels` `[B, S, S, 3]` uint8, `input_ids` and `attention_mask` `[B, length]`, `has_image` and `has_text` `[B]`.
        """
        squares = [self._square(content.image if self.content.use_image else None) for content in contents]
        texts = [self._text(content) if self.content.use_text else "" for content in contents]
        tokens = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=self.max_text_tokens, return_tensors="np"
        )
        blank = np.zeros((self.image_size, self.image_size, 3), np.uint8)
        return {
            "pixels": np.stack([blank if square is None else square for square in squares]),
            "has_image": np.array([square is not None for square in squares], bool),
            "input_ids": tokens["input_ids"].astype(np.int64),
            "attention_mask": tokens["attention_mask"].astype(np.int64),
            "has_text": np.array([bool(text) for text in texts], bool),
        }

    def _square(self, data: bytes | None) -> NDArray[np.uint8] | None:
        if not data:
            return None
        try:
            image = decode_image(data, max_bytes=MAX_IMAGE_BYTES, max_pixels=MAX_IMAGE_PIXELS)
        except InvalidImageError:
            return None
        return np.asarray(pad_to_square(image, self.image_size), np.uint8)

    @staticmethod
    def _text(content: Content) -> str:
        return "\n".join(part.strip() for part in (content.title, content.text) if part and part.strip())


class DualEncoder(nn.Module):
    """Maps content to an image vector and a text vector `[B, k]` of unit norm; zeros for a missing modality.

    Args:
        image: Image tower.
        text: Text tower.
        rows: Turns content into the towers' inputs.
        width: `k`.
        statistics: Mean and standard deviation of a color channel, of 0 to 1.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        image: Tower,
        text: Tower,
        rows: ContentRows,
        *,
        width: int,
        statistics: tuple[Sequence[float], Sequence[float]],
    ) -> None:
        super().__init__()
        self.image, self.text, self.rows, self.width = image, text, rows, width
        self.image_projection = nn.Linear(image.hidden, width, bias=False)
        self.text_projection = nn.Linear(text.hidden, width, bias=False)
        for name, values in zip(("mean", "std"), statistics, strict=True):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    @classmethod
    def compose(
        cls, image: Path, text: Path, *, width: int, max_text_tokens: int = 48, content: Modalities | None = None
    ) -> Self:
        """A dual encoder of two checkpoint directories, which may be one, such as a CLIP or SigLIP model.

        The projections of a CLIP model of width `width` are taken over; all others are new.

        Raises:
            UserError: a directory is no checkpoint, or its weights are incomplete.
        """
        towers = open_tower(image, "image"), open_tower(text, "text")
        try:
            tokenizer = AutoTokenizer.from_pretrained(text, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise UserError(
                f"the text tower {text} has no tokenizer; add its tokenizer.json to the directory"
            ) from error
        rows = ContentRows(
            tokenizer,
            image_size=size_of(towers[0].model.config),
            max_text_tokens=max_text_tokens,
            content=content or Modalities(),
        )
        encoder = cls(*towers, rows, width=width, statistics=pixel_statistics(image))
        for tower, own in zip(towers, (encoder.image_projection, encoder.text_projection), strict=True):
            if tower.projection is not None and tower.projection.shape == own.weight.shape:
                own.weight.data.copy_(tower.projection)
        return encoder.eval()

    def forward(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Image and text vectors `[B, k]`, float32, of inputs as `inputs` returns them."""
        return self.encode_images(inputs), self.encode_texts(inputs)

    def encode_images(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Image vectors `[B, k]`, of pixels or of the tower's outputs."""
        vectors = self.image_projection(self._image_features(inputs))
        return F.normalize(vectors, dim=-1) * inputs["has_image"].unsqueeze(-1)

    def encode_texts(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Text vectors `[B, k]`, of tokens or of the tower's outputs."""
        vectors = self.text_projection(self._text_features(inputs))
        return F.normalize(vectors, dim=-1) * inputs["has_text"].unsqueeze(-1)

    def features(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Other inputs for the same vectors: the towers' outputs `image_features` and `text_features` `[B, D]`."""
        found = {"image_features": self._image_features(inputs), "text_features": self._text_features(inputs)}
        return found | {name: inputs[name] for name in ("has_image", "has_text")}

    def _image_features(self, inputs: Mapping[str, Tensor]) -> Tensor:
        if "image_features" in inputs:
            return inputs["image_features"]
        # Channels stay last in memory, which convolutions on a CPU need two thirds of the time for.
        pixels = (inputs["pixels"].movedim(-1, 1).float() / 255 - self.mean) / self.std
        out: Tensor = self.image(pixel_values=pixels.contiguous(memory_format=torch.channels_last))
        return out

    def _text_features(self, inputs: Mapping[str, Tensor]) -> Tensor:
        if "text_features" in inputs:
            return inputs["text_features"]
        out: Tensor = self.text(**{name: inputs[name] for name in ("input_ids", "attention_mask")})
        return out

    def inputs(self, rows: Rows, device: torch.device | str) -> dict[str, Tensor]:
        """Tensors for `forward` of arrays as `rows` writes them, without padding that all rows have; or of features."""
        if "attention_mask" not in rows:
            return {name: torch.as_tensor(values, device=device) for name, values in rows.items()}
        longest = max(int(rows["attention_mask"].sum(axis=1).max(initial=1)), 1)
        cut = {name: rows[name][:, :longest] for name in ("input_ids", "attention_mask")}
        return {name: torch.as_tensor(values, device=device) for name, values in {**rows, **cut}.items()}

    def set_trainable(self, image: Layers, text: Layers, *, field: str) -> None:
        """Trains all layers of a tower, none, or its last n; the projections are always trained.

        Args:
            image: Of the image tower.
            text: Of the text tower.
            field: Key of the setting, for the error.

        Raises:
            UserError: a tower has fewer layers.
        """
        unfreeze_from(self.image.model, image, f"{field}.image")
        unfreeze_from(self.text.model, text, f"{field}.text")
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Switches the mode; towers without trainable weights stay in eval mode, so that nothing in them changes."""
        super().train(mode)
        for tower in (self.image, self.text):
            if not any(weight.requires_grad for weight in tower.parameters()):
                tower.eval()
        return self

    def save(self, path: Path) -> None:
        """Writes both towers, the tokenizer, the projections and the settings into a directory."""
        for name, tower in (("image", self.image), ("text", self.text)):
            tower.model.save_pretrained(path / name)
        self.rows.tokenizer.save_pretrained(path / "text")
        weights = {"image": self.image_projection.weight, "text": self.text_projection.weight}
        save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, path / PROJECTIONS)
        config = {
            "width": self.width,
            "image": {"pooling": self.image.pooling, "hidden": self.image.hidden},
            "text": {"pooling": self.text.pooling, "hidden": self.text.hidden},
            "image_size": self.rows.image_size,
            "max_text_tokens": self.rows.max_text_tokens,
            "mean": self.mean.flatten().tolist(),
            "std": self.std.flatten().tolist(),
            "content": self.rows.content.model_dump(),
        }
        (path / CONFIG).write_text(json.dumps(config, indent=2))

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu", *, content: Modalities | None = None) -> Self:
        """Loads a dual encoder, in eval mode, from a directory that `save` wrote.

        Args:
            path: The directory.
            device: For the weights.
            content: Modalities to use instead of the saved ones.

        Raises:
            UserError: the directory holds none, or a file of it is missing or damaged.
        """
        if not (path / CONFIG).is_file():
            raise UserError(
                f"{path} is not a dual encoder: {CONFIG} is missing; create one with `coldstart create-dual-encoder`"
            )
        config = json.loads((path / CONFIG).read_text())
        try:
            image_tower, text_tower = (
                Tower(
                    load_model(path / name)[0],
                    config[name]["pooling"],
                    config[name]["hidden"],
                )
                for name in ("image", "text")
            )
            tokenizer = AutoTokenizer.from_pretrained(path / "text", trust_remote_code=False)
            projections = load_file(path / PROJECTIONS)
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise UserError(
                f"the dual encoder in {path} is incomplete ({first_line(error)}); create it again"
            ) from error
        rows = ContentRows(
            tokenizer,
            image_size=config["image_size"],
            max_text_tokens=config["max_text_tokens"],
            content=content or Modalities(**config["content"]),
        )
        encoder = cls(image_tower, text_tower, rows, width=config["width"], statistics=(config["mean"], config["std"]))
        encoder.image_projection.weight.data.copy_(projections["image"])
        encoder.text_projection.weight.data.copy_(projections["text"])
        return encoder.to(device).eval()
