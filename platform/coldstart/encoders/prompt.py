"""The prompt of an item: image, title, text, an instruction, and the `[EMB]` token.

A missing image is replaced by a blank one, so that every rank always runs the vision tower: ZeRO-3 would wait forever
if one rank skipped it.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from coldstart.config.recipe import INSTRUCTION, Modalities
from coldstart.data.content import Content
from coldstart.encoders.image_preprocessing import ImagePreprocessor

EMB = "[EMB]"
Rows = dict[str, np.ndarray]
"""Columns with one row per item. A column whose rows differ in shape is an object array."""


class Prompt:
    """Turns content into input rows of the MLLM. Pure and picklable, so that data workers can run it.

    Attributes:
        processor: Processor of the MLLM.
        images: Decodes images and holds the options of the image processor.
        max_text_tokens: Limit of tokens of title and text.
        content: Modalities in the prompt.
        instruction: Text before `[EMB]`.
        folded: Names of inputs with several rows per item, which `prepare` folds into one and `collate` unfolds.
    """

    def __init__(
        self,
        processor: Any,
        images: ImagePreprocessor,
        *,
        max_text_tokens: int,
        content: Modalities,
        image_marks: tuple[str, str] = ("", ""),
        instruction: str = INSTRUCTION,
    ) -> None:
        """See the class; `image_marks` are the tokens that this family needs around an image."""
        self.processor = processor
        self.images = images
        self.max_text_tokens = max_text_tokens
        self.content = content
        self.instruction = instruction
        self._image_text = f"{image_marks[0]}{processor.image_token}{image_marks[1]}"
        tokenizer = processor.tokenizer
        self._reserved = re.compile("|".join(re.escape(token) for token in sorted(tokenizer.get_added_vocab())))
        self._suffix = [*_ids(tokenizer, f"\n{instruction}"), tokenizer.convert_tokens_to_ids(EMB)]
        self._pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        two_images = self._process_images([self.images.largest()] * 2)
        self.folded = frozenset(name for name, rows in two_images.items() if len(rows) != 2)

    def prepare(self, contents: Sequence[Content]) -> Rows:
        """One row per item: `input_ids` and `attention_mask` [B, length], `num_text_tokens` [B], and the image inputs.

        The attended tokens are at the left of a row and end with `[EMB]`; `num_text_tokens` counts the tokens of title
        and text among them. Without dynamic resolution all rows of a column have the same shape.
        """
        images = [self.images.decode(content.image if self.content.use_image else None) for content in contents]
        texts = [self._text_ids(content) for content in contents]
        if not self.images.dynamic:
            return self._rows(self._process_images(images), texts, self.max_text_tokens)
        items = [
            self._rows(self._process_images([image]), [text_ids], len(text_ids))
            for image, text_ids in zip(images, texts, strict=True)
        ]
        return {name: _column([rows[name][0] for rows in items]) for name in items[0]}

    def collate(self, rows: Rows) -> Rows:
        """Arrays for the MLLM from rows of `prepare`, cut to the longest row."""
        inputs = {name: column for name, column in rows.items() if name != "num_text_tokens"}
        longest = int(self.lengths(rows).max())
        for name in inputs:
            if name in self.folded:
                inputs[name] = np.concatenate(list(inputs[name]))
            elif inputs[name].dtype == object:
                inputs[name] = _pad_rows(inputs[name], self._pad if name == "input_ids" else 0)
        for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
            if name in inputs:
                inputs[name] = inputs[name][:, :longest]
        return inputs

    def lengths(self, rows: Rows) -> np.ndarray:
        """Number of tokens `[B]` of each row, `[EMB]` included."""
        return np.array([int(np.flatnonzero(mask)[-1]) + 1 for mask in rows["attention_mask"]])

    def mask_text_tokens(self, rows: Rows, dropped: np.ndarray) -> Rows:
        """Rows in which no token attends to the text tokens marked in `dropped` `[B, max_text_tokens]`."""
        masks = rows["attention_mask"].copy()
        ends = self.lengths(rows) - len(self._suffix)
        for row, (end, count) in enumerate(zip(ends, rows["num_text_tokens"], strict=True)):
            mask = masks[row].copy()
            mask[end - count : end][dropped[row, :count]] = 0
            masks[row] = mask
        return {**rows, "attention_mask": masks}

    def settings(self) -> dict[str, Any]:
        """Settings that an artifact stores to rebuild the same prompt."""
        return {
            "image_size": self.images.size,
            "dynamic_resolution": self.images.dynamic,
            "max_text_tokens": self.max_text_tokens,
            "content": self.content.model_dump(),
            "instruction": self.instruction,
        }

    def _rows(self, inputs: Rows, texts: list[list[int]], max_tokens: int) -> Rows:
        """Appends text, instruction and `[EMB]` to the image tokens of items whose images have the same shape."""
        rows = len(texts)
        prefix = inputs.pop("input_ids")
        inputs.pop("attention_mask", None)
        token_types = inputs.pop("mm_token_type_ids", None)
        length = prefix.shape[1] + max_tokens + len(self._suffix)
        ids = np.full((rows, length), self._pad, dtype=np.int64)
        mask = np.zeros((rows, length), dtype=np.int64)
        for row, text_ids in enumerate(texts):
            tokens = [*prefix[row], *text_ids, *self._suffix]
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        if token_types is not None:
            inputs["mm_token_type_ids"] = np.pad(token_types, ((0, 0), (0, length - token_types.shape[1])))
        for name in self.folded & inputs.keys():
            inputs[name] = inputs[name].reshape(rows, -1, *inputs[name].shape[1:])
        counts = np.array([len(text_ids) for text_ids in texts], dtype=np.int64)
        return {"input_ids": ids, "attention_mask": mask, "num_text_tokens": counts, **inputs}

    def _process_images(self, images: list[Image.Image]) -> Rows:
        """Image tokens and pixels from the MLLM's own processor."""
        processed = self.processor(
            images=[[image] for image in images],
            text=[self._image_text] * len(images),
            images_kwargs=self.images.options,
            return_tensors="np",
        )
        return {name: np.asarray(rows) for name, rows in processed.items()}

    def _text_ids(self, content: Content) -> list[int]:
        if not self.content.use_text:
            return []
        text = "\n".join(part for part in (content.title, content.text) if part)
        return _ids(self.processor.tokenizer, self._reserved.sub(" ", text))[: self.max_text_tokens]


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _column(rows: list[np.ndarray]) -> np.ndarray:
    """One column of rows that may differ in shape."""
    if rows[0].ndim == 0:
        return np.array(rows)
    column = np.empty(len(rows), object)
    column[:] = rows
    return column


def _pad_rows(rows: np.ndarray, fill: int) -> np.ndarray:
    """Pads rows `[n, ...]` of different shapes to one array `[B, max n, ...]`."""
    padded = np.full((len(rows), *np.max([row.shape for row in rows], axis=0)), fill, dtype=rows[0].dtype)
    for target, row in zip(padded, rows, strict=True):
        target[tuple(slice(side) for side in row.shape)] = row
    return padded
