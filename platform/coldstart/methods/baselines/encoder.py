"""The item encoder of the baselines: TF-IDF text vectors, IDProxy's aligned MLLM, or both."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from numpy.typing import NDArray

from coldstart.config import UserError
from coldstart.data.content import Content
from coldstart.data.item_table import ColumnSpec, ColumnSpecs
from coldstart.encoders.text_svd import CONFIG as TEXT_CONFIG
from coldstart.encoders.text_svd import TextSvd, text_of
from coldstart.methods.base import ItemEncoder
from coldstart.methods.baselines.similarity_scorer import TEXT

ALIGNED_CONFIG = "encoder.json"
"""File that only a directory with an MLLM has."""


class TextEncoder:
    """Title and text as a TF-IDF vector.

    Args:
        svd: Fitted on the catalog.
    """

    def __init__(self, svd: TextSvd) -> None:
        self.svd = svd

    @property
    def outputs(self) -> ColumnSpecs:
        """Text vectors `[w]`."""
        return {TEXT: ColumnSpec("float32", (self.svd.width,))}

    def encode(self, contents: Sequence[Content]) -> dict[str, NDArray[Any]]:
        """Text vectors `[n, w]`; zeros for an item whose text has no known term."""
        return {TEXT: self.svd(text_of(content) for content in contents)}


class BaselineEncoder:
    """Writes the columns of its parts.

    Args:
        parts: At least one.
    """

    def __init__(self, parts: Sequence[ItemEncoder]) -> None:
        self.parts = parts

    @classmethod
    def load(cls, path: Path, device: torch.device | str) -> Self:
        """The parts that an artifact directory has.

        Raises:
            UserError: it has none.
        """
        parts: list[ItemEncoder] = []
        if (path / TEXT_CONFIG).is_file():
            parts.append(TextEncoder(TextSvd.load(path)))
        if (path / ALIGNED_CONFIG).is_file():
            # A text encoder is loaded without the MLLM stack.
            from coldstart.encoders import Encoder
            from coldstart.methods.idproxy.proxy_encoder import ProxyEncoder

            parts.append(ProxyEncoder(Encoder.load(path, device), device))
        if not parts:
            raise UserError(
                f"no encoder at {path}: {TEXT_CONFIG} and {ALIGNED_CONFIG} are missing; run its stage first"
            )
        return cls(parts)

    @property
    def outputs(self) -> ColumnSpecs:
        """Those of all parts."""
        return {name: spec for part in self.parts for name, spec in part.outputs.items()}

    def encode(self, contents: Sequence[Content]) -> dict[str, NDArray[Any]]:
        """Those of all parts; equal lists give equal results."""
        return {name: values for part in self.parts for name, values in part.encode(contents).items()}
