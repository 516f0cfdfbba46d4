"""What the MLLM is shown of an item: picture, title, text, a cue, and the `[EMB]` token.

An absent picture is a blank one, so every item has image tokens and every rank always runs the vision tower: ZeRO-3
would wait for ever if one rank skipped it.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from coldstart.config.recipe import CUE, ContentSwitch
from coldstart.data.content import Content
from coldstart.encoders.pictures import Pictures

EMB = "[EMB]"
Rows = dict[str, np.ndarray]
"""Columns with one row per item. A column whose rows differ in shape is an object array of them."""


class Prompt:
    """Turns content into rows the MLLM reads. Pure and picklable, so that data workers can run it.

    Attributes:
        processor: Processor of the MLLM.
        pictures: Decodes them and says how the processor is to treat them.
        max_text_tokens: Most tokens of title and text.
        content: Which modalities are shown.
        cue: Stands before `[EMB]`.
        folded: Names of inputs with several rows per item, which `prepare` folds to one and `collate` restores.
    """

    def __init__(
        self,
        processor: Any,
        pictures: Pictures,
        *,
        max_text_tokens: int,
        content: ContentSwitch,
        image_marks: tuple[str, str] = ("", ""),
        cue: str = CUE,
    ) -> None:
        """See the class; `image_marks` are the tokens this family wants around an image."""
        self.processor = processor
        self.pictures = pictures
        self.max_text_tokens = max_text_tokens
        self.content = content
        self.cue = cue
        self._image_text = f"{image_marks[0]}{processor.image_token}{image_marks[1]}"
        tokenizer = processor.tokenizer
        self._reserved = re.compile("|".join(re.escape(token) for token in sorted(tokenizer.get_added_vocab())))
        self._suffix = [*_ids(tokenizer, f"\n{cue}"), tokenizer.convert_tokens_to_ids(EMB)]
        self._pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        two = self._see([self.pictures.largest()] * 2)
        self.folded = frozenset(name for name, rows in two.items() if len(rows) != 2)

    def prepare(self, contents: Sequence[Content]) -> Rows:
        """One row per item: `input_ids` and `attention_mask` [B, length], `words` [B], pictures as the MLLM wants them.

        The attended part stands at the left of a row and ends with `[EMB]`; `words` says how many tokens of title and
        text it has. Without dynamic resolution all rows of a column have the same shape, whatever the item.
        """
        pictures = [self.pictures.decode(content.picture if self.content.picture else None) for content in contents]
        words = [self._words(content) for content in contents]
        if not self.pictures.dynamic:
            return self._rows(self._see(pictures), words, self.max_text_tokens)
        alone = [
            self._rows(self._see([picture]), [word_ids], len(word_ids))
            for picture, word_ids in zip(pictures, words, strict=True)
        ]
        return {name: _column([rows[name][0] for rows in alone]) for name in alone[0]}

    def collate(self, rows: Rows) -> Rows:
        """Arrays for the MLLM from any rows that `prepare` made: no column is longer than their longest row."""
        made = {name: column for name, column in rows.items() if name != "words"}
        longest = int(self.lengths(rows).max())
        for name in made:
            if name in self.folded:
                made[name] = np.concatenate(list(made[name]))
            elif made[name].dtype == object:
                made[name] = _pad_rows(made[name], self._pad if name == "input_ids" else 0)
        for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
            if name in made:
                made[name] = made[name][:, :longest]
        return made

    def lengths(self, rows: Rows) -> np.ndarray:
        """Tokens `[B]` of each row up to and with `[EMB]`."""
        return np.array([int(np.flatnonzero(mask)[-1]) + 1 for mask in rows["attention_mask"]])

    def hide_words(self, rows: Rows, hidden: np.ndarray) -> Rows:
        """The rows without the words that `hidden` `[B, max_text_tokens]` names: nothing attends to them."""
        masks = rows["attention_mask"].copy()
        ends = self.lengths(rows) - len(self._suffix)
        for row, (end, words) in enumerate(zip(ends, rows["words"], strict=True)):
            mask = masks[row].copy()
            mask[end - words : end][hidden[row, :words]] = 0
            masks[row] = mask
        return {**rows, "attention_mask": masks}

    def settings(self) -> dict[str, Any]:
        """What an artifact has to record to build the same prompt again."""
        return {
            "picture_size": self.pictures.size,
            "dynamic_resolution": self.pictures.dynamic,
            "max_text_tokens": self.max_text_tokens,
            "content": self.content.model_dump(),
            "cue": self.cue,
        }

    def _rows(self, inputs: Rows, words: list[list[int]], room: int) -> Rows:
        """Puts words, cue and `[EMB]` behind the image tokens of items whose pictures have the same shape."""
        rows = len(words)
        prefix = inputs.pop("input_ids")
        inputs.pop("attention_mask", None)
        kinds = inputs.pop("mm_token_type_ids", None)
        length = prefix.shape[1] + room + len(self._suffix)
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
        counts = np.array([len(word_ids) for word_ids in words], dtype=np.int64)
        return {"input_ids": ids, "attention_mask": mask, "words": counts, **inputs}

    def _see(self, pictures: list[Image.Image]) -> Rows:
        """The MLLM's own processor on pictures alone: image tokens and pixels."""
        seen = self.processor(
            images=[[picture] for picture in pictures],
            text=[self._image_text] * len(pictures),
            images_kwargs=self.pictures.options,
            return_tensors="np",
        )
        return {name: np.asarray(rows) for name, rows in seen.items()}

    def _words(self, content: Content) -> list[int]:
        if not self.content.text:
            return []
        text = "\n".join(part for part in (content.title, content.text) if part)
        return _ids(self.processor.tokenizer, self._reserved.sub(" ", text))[: self.max_text_tokens]


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _column(rows: list[np.ndarray]) -> np.ndarray:
    """Rows of any shapes as one column."""
    if rows[0].ndim == 0:
        return np.array(rows)
    column = np.empty(len(rows), object)
    column[:] = rows
    return column


def _pad_rows(rows: np.ndarray, fill: int) -> np.ndarray:
    """A column of rows with different shapes `[B] of [n, ...]` -> `[B, longest n, ...]`."""
    whole = np.full((len(rows), *np.max([row.shape for row in rows], axis=0)), fill, dtype=rows[0].dtype)
    for place, row in zip(whole, rows, strict=True):
        place[tuple(slice(side) for side in row.shape)] = row
    return whole
