"""What the MLLM is shown of an item: picture, title, text, a cue, and the `[EMB]` token.

Pictures are fitted into one square size and an absent picture is a blank one, so that every item has the same number of
image tokens and every rank always runs the vision tower (ZeRO-3 would wait for ever if one rank skipped it).
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from coldstart.config.recipe import ContentSwitch
from coldstart.data.content import BadPicture, Content, decode_picture

CUE = "Describe this item in one word:"
EMB = "[EMB]"
GREY = (127, 127, 127)
# Preparation and the gateway enforce the limits of the recipe; these only bound memory where neither has looked.
MAX_PICTURE_BYTES = 50_000_000
MAX_PICTURE_PIXELS = 50_000_000


class Prompt:
    """Turns content into arrays the MLLM reads. Pure and picklable, so that data workers can run it.

    Attributes:
        processor: Processor of the MLLM.
        picture_size: Side of the square that pictures are fitted into.
        max_text_tokens: Most tokens of title and text.
        content: Which modalities are shown.
        folded: Names of inputs with several rows per item, which `prepare` folds to one and `unfold` restores.
    """

    def __init__(
        self,
        processor: Any,
        *,
        picture_size: int,
        max_text_tokens: int,
        content: ContentSwitch,
        image_marks: tuple[str, str] = ("", ""),
        cue: str = CUE,
    ) -> None:
        """See the class; `image_marks` are the tokens this family wants around an image."""
        self.processor = processor
        self.picture_size = picture_size
        self.max_text_tokens = max_text_tokens
        self.content = content
        self.cue = cue
        self._image_text = f"{image_marks[0]}{processor.image_token}{image_marks[1]}"
        tokenizer = processor.tokenizer
        self._reserved = re.compile("|".join(re.escape(token) for token in sorted(tokenizer.get_added_vocab())))
        self._suffix = [*_ids(tokenizer, f"\n{cue}"), tokenizer.convert_tokens_to_ids(EMB)]
        self._pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        two = self._see([self._blank(), self._blank()])
        self._prefix = two["input_ids"].shape[1]
        self.folded = frozenset(name for name, rows in two.items() if len(rows) != 2)

    def prepare(self, contents: Sequence[Content]) -> dict[str, np.ndarray]:
        """Arrays with one row per item: `input_ids` and `attention_mask` [B, length], pictures as the MLLM wants them.

        The attended part stands at the left of a row and ends with `[EMB]`.
        """
        rows = len(contents)
        inputs = self._see([self._picture(content) for content in contents])
        prefix = inputs.pop("input_ids")
        inputs.pop("attention_mask", None)
        kinds = inputs.pop("mm_token_type_ids", None)
        words = [self._words(content) for content in contents]
        length = prefix.shape[1] + self.max_text_tokens + len(self._suffix)
        ids = np.full((rows, length), self._pad, dtype=np.int64)
        mask = np.zeros((rows, length), dtype=np.int64)
        for row, word_ids in enumerate(words):
            whole = [*prefix[row], *word_ids, *self._suffix]
            ids[row, : len(whole)] = whole
            mask[row, : len(whole)] = 1
        if kinds is not None:
            inputs["mm_token_type_ids"] = np.pad(kinds, ((0, 0), (0, length - kinds.shape[1])))
        for name in self.folded & inputs.keys():
            inputs[name] = inputs[name].reshape(rows, -1, *inputs[name].shape[1:])
        return {"input_ids": ids, "attention_mask": mask, **inputs}

    def hide_words(self, mask: np.ndarray, hidden: np.ndarray) -> np.ndarray:
        """The attention mask `[B, length]` without the words that `hidden` `[B, max_text_tokens]` names."""
        words = mask.sum(axis=1, keepdims=True) - self._prefix - len(self._suffix)
        hidden = hidden & (np.arange(self.max_text_tokens) < words)
        masked = mask.copy()
        masked[:, self._prefix : self._prefix + self.max_text_tokens][hidden] = 0
        return masked

    def settings(self) -> dict[str, Any]:
        """What an artifact has to record to build the same prompt again."""
        return {
            "picture_size": self.picture_size,
            "max_text_tokens": self.max_text_tokens,
            "content": self.content.model_dump(),
            "cue": self.cue,
        }

    def _see(self, pictures: list[Image.Image]) -> dict[str, np.ndarray]:
        """The MLLM's own processor on pictures alone: image tokens and pixels."""
        seen = self.processor(images=pictures, text=[self._image_text] * len(pictures), return_tensors="np")
        return {name: np.asarray(rows) for name, rows in seen.items()}

    def _words(self, content: Content) -> list[int]:
        if not self.content.text:
            return []
        text = "\n".join(part for part in (content.title, content.text) if part)
        return _ids(self.processor.tokenizer, self._reserved.sub(" ", text))[: self.max_text_tokens]

    def _picture(self, content: Content) -> Image.Image:
        if not self.content.picture or content.picture is None:
            return self._blank()
        try:
            picture = decode_picture(content.picture, max_bytes=MAX_PICTURE_BYTES, max_pixels=MAX_PICTURE_PIXELS)
        except BadPicture:
            return self._blank()
        return fit(picture, self.picture_size)

    def _blank(self) -> Image.Image:
        return Image.new("RGB", (self.picture_size, self.picture_size), GREY)


def fit(picture: Image.Image, size: int) -> Image.Image:
    """A picture scaled into a square of `size` pixels, aspect kept, with grey around it."""
    scale = size / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    if (width, height) != picture.size:
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    if width == height == size:
        return picture
    square = Image.new("RGB", (size, size), GREY)
    square.paste(picture, ((size - width) // 2, (size - height) // 2))
    return square


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids
