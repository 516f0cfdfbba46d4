"""The item encoder of SaviorRec: a frozen MLLM, and the quantizer that adds semantic IDs to its vectors.

Legend: `N` items, `D` MLLM width, `k` content width, `Lq` code levels.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from coldstart.config import UserError
from coldstart.data.item_table import ColumnSpecs
from coldstart.methods.base import ItemAdaptor
from coldstart.methods.saviorrec.model import CODES, CONTENT, NO_CODE, content_columns, scorer_columns
from coldstart.modules.residual_quantizer import ResidualQuantizer

POOL = "shuffled_codes.safetensors"
HASHED_AXES = 32


class SemanticIds(ItemAdaptor):
    """Adds codes to content vectors.

    Args:
        quantizer: In eval mode.
        pool: [N, Lq] codes from which an item gets those of a random item (`shuffled_codes`); None for its own.
    """

    def __init__(self, quantizer: ResidualQuantizer, pool: Tensor | None = None) -> None:
        super().__init__()
        self.quantizer, self.pool = quantizer, pool
        self.inputs: ColumnSpecs = content_columns(quantizer.width)
        self.outputs: ColumnSpecs = scorer_columns(quantizer.width, quantizer.levels)

    def forward(self, columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Content vectors `[n, k]` as they are, and codes `[n, Lq]` from 1; `NO_CODE` for the unknown item, zeros."""
        content = columns[CONTENT]
        codes = self.quantizer.encode(content) + 1 if self.pool is None else self.pool[_hash(content, len(self.pool))]
        known = content.any(dim=-1, keepdim=True)
        return {CONTENT: content, CODES: torch.where(known, codes, NO_CODE).to(torch.int16)}


def _hash(content: Tensor, count: int) -> Tensor:
    """A number below `count` for each content vector `[n, k]`, from the signs of its first components.

    A random permutation of the catalog would say nothing about an item that is published later.
    """
    signs = content[:, :HASHED_AXES] > 0
    number = (signs.long() << torch.arange(signs.shape[1], device=content.device)).sum(1)
    mixed = number * 0x1E3779B97F4A7C15
    mixed = (mixed ^ (mixed >> 29)) * 0x3F58476D1CE4E5B9
    return (mixed >> 17) % count


def save_pool(codes: Tensor, path: Path) -> None:
    """Writes the pool `[N, Lq]` of shuffled codes into the directory of a scorer."""
    save_file({CODES: codes.contiguous()}, path / POOL)


def load_pool(path: Path) -> Tensor | None:
    """The pool of a scorer; None if its codes are not shuffled."""
    return load_file(path / POOL)[CODES] if (path / POOL).is_file() else None


def check_matches(quantizer: ResidualQuantizer, width: int, sizes: Sequence[int]) -> None:
    """Checks that a scorer's codebooks fit a quantizer.

    Args:
        quantizer: Of the release.
        width: Content width of the scorer.
        sizes: Codes of each level of the scorer.

    Raises:
        UserError: they do not.
    """
    if (quantizer.width, quantizer.sizes) != (width, tuple(sizes)):
        raise UserError(
            f"the scorer has codebooks of {tuple(sizes)} codes for content vectors of width {width}, but its quantizer "
            f"has {quantizer.sizes} for width {quantizer.width}; run the train_scorer stage again"
        )
