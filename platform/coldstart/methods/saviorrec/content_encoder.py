"""The content encoder before training: content vectors are the principal components of the MLLM's pooled states.

The states of an MLLM share a large common part, so that all cosines are near 1. Centering and projection to principal
components remove it **[I]**. The projection head has the shape of a trained one, so contrastive training can start
from it.

Legend: `n` items, `D` MLLM width, `k` content width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from coldstart.config import Recipe, UserError
from coldstart.config.recipe import settings_of
from coldstart.data.content import Content
from coldstart.data.item_table import ColumnSpecs
from coldstart.encoders import Encoder
from coldstart.methods.saviorrec.config import Settings
from coldstart.methods.saviorrec.model import CONTENT, content_columns

DEFAULT_WIDTH = 128
SAMPLE = 4096
"""Train items whose states determine the principal components."""
ITEMS_PER_BATCH = 64


class ContentEncoder:
    """The encoder's forward pass over a list of contents.

    Args:
        encoder: In eval mode, on `device`.
        device: Its device.
    """

    def __init__(self, encoder: Encoder, device: torch.device | str) -> None:
        self.encoder, self.device = encoder, device

    @property
    def outputs(self) -> ColumnSpecs:
        """Content vectors `[k]`."""
        return content_columns(self.encoder.width)

    @torch.inference_mode()
    def encode(self, contents: Sequence[Content]) -> dict[str, NDArray[Any]]:
        """Content vectors `[n, k]` of unit length, float32."""
        content, _ = self.encoder(self.encoder.inputs(self.encoder.prepare(contents), self.device))
        return {CONTENT: content.float().cpu().numpy()}


def fit_content_encoder(
    recipe: Recipe, mllm: str, contents: Sequence[Content], device: torch.device | str
) -> tuple[Encoder, float]:
    """The encoder of a recipe, whose projection head maps to principal components.

    Args:
        recipe: Of the run.
        mllm: Checkpoint directory or hub name.
        contents: Of the items that determine the components.
        device: To encode them on.

    Returns:
        The encoder in eval mode, and the share of the variance that the components keep.

    Raises:
        UserError: the width is larger than that of the MLLM or the number of items.
    """
    wanted = settings_of(recipe, Settings).encoder.width
    encoder = Encoder.create(
        mllm, recipe.encoder, width=wanted or DEFAULT_WIDTH, content=recipe.content, seed=recipe.seed
    )
    limit = min(encoder.hidden, len(contents))
    if wanted is None and limit < DEFAULT_WIDTH:
        wanted = limit
        encoder = Encoder.create(mllm, recipe.encoder, width=limit, content=recipe.content, seed=recipe.seed)
    elif (wanted or DEFAULT_WIDTH) > limit:
        raise UserError(
            f"method.encoder.width {wanted} exceeds {limit}, the smaller of the MLLM's width {encoder.hidden} and "
            f"{len(contents)} train items; lower it"
        )
    encoder = encoder.to(device).eval()
    with torch.inference_mode():
        batches = [contents[at : at + ITEMS_PER_BATCH] for at in range(0, len(contents), ITEMS_PER_BATCH)]
        states = [encoder.pooled(encoder.inputs(encoder.prepare(batch), device)) for batch in batches]
        center, axes, kept = principal_axes(torch.cat(states).double().cpu(), encoder.width)
    encoder.cpu().projection.init_linear(center.to(encoder.mllm.dtype), axes.to(encoder.mllm.dtype))
    return encoder, kept


def principal_axes(states: Tensor, width: int) -> tuple[Tensor, Tensor, float]:
    """Mean `[D]`, the first `width` principal axes `[k, D]` and their share of the variance, of states `[n, D]`.

    An axis points to where its largest component is positive, so that the result does not depend on the solver.
    """
    center = states.mean(0)
    _, scale, axes = torch.linalg.svd(states - center, full_matrices=False)
    axes = axes[:width]
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    variance = scale.square()
    return center, axes * largest.sign(), float(variance[:width].sum() / variance.sum().clamp(min=1e-30))
