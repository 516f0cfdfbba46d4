"""The mature items that are nearest to a cold item, for people to judge."""

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class ItemCard:
    """An item in the report.

    Attributes:
        title: May be empty.
        image: `data:` URI of a thumbnail, or `None`.
        cosine: Similarity to the cold item; `None` for the cold item itself.
    """

    title: str
    image: str | None
    cosine: float | None = None


@dataclass(frozen=True)
class ItemNeighbors:
    """A cold item and the mature items nearest to it."""

    cold: ItemCard
    nearest: list[ItemCard]


@dataclass(frozen=True)
class NeighborSpace:
    """The vectors by which items are similar.

    Attributes:
        vectors: [V, d].
        mature: [m] items that are found.
        cold: [c] items whose neighbors are searched.
    """

    vectors: Tensor
    mature: NDArray[np.integer]
    cold: NDArray[np.integer]


def nearest_items(
    vectors: Tensor, cold: NDArray[np.integer], mature: NDArray[np.integer], *, k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The mature items whose vectors have the highest cosine with each cold item's vector.

    Args:
        vectors: [V, d].
        cold: [c] item indices.
        mature: [m] item indices.
        k: How many per cold item.

    Returns:
        [c, k] item indices and [c, k] cosines, best first; fewer columns if there are fewer mature items.
    """
    query = torch.nn.functional.normalize(vectors[torch.as_tensor(cold, dtype=torch.int64)], dim=-1)
    items = torch.as_tensor(mature, dtype=torch.int64)
    keys = torch.nn.functional.normalize(vectors[items], dim=-1)
    best = (query @ keys.T).topk(min(k, len(items)), dim=-1)
    return items[best.indices].numpy(), best.values.float().numpy()


def cosines(left: Tensor, right: Tensor) -> NDArray[np.float32]:
    """Row-wise cosine of `[m, d]` with `[m, d]`."""
    found: NDArray[np.float32] = torch.nn.functional.cosine_similarity(left, right, dim=-1).float().numpy()
    return found


def thumbnail(encoded: bytes | None, decode: Callable[[bytes], Image.Image], *, side: int = 112) -> str | None:
    """A small JPEG as a `data:` URI, or `None` without an image that `decode` can read."""
    if encoded is None:
        return None
    try:
        image = decode(encoded)
    except ValueError:
        return None
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
