"""Which mature items a cold item's fine proxy lands next to: the picture a person can judge."""

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
class Card:
    """An item as the report shows it.

    Attributes:
        title: May be empty.
        picture: `data:` URI of a thumbnail, or `None`.
        cosine: Likeness to the cold item; `None` for the cold item itself.
    """

    title: str
    picture: str | None
    cosine: float | None = None


@dataclass(frozen=True)
class Neighbourhood:
    """A cold item and the mature items nearest to it."""

    cold: Card
    nearest: list[Card]


def nearest(
    proxies: Tensor, ids: Tensor, cold: NDArray[np.integer], mature: NDArray[np.integer], *, most: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Mature items by cosine of their ID row to each cold item's proxy.

    Args:
        proxies: [V, d].
        ids: [V, d].
        cold: [c] item indices.
        mature: [m] item indices.
        most: How many per cold item.

    Returns:
        [c, most] item indices and [c, most] cosines, best first; fewer columns when there are fewer mature items.
    """
    query = torch.nn.functional.normalize(proxies[torch.as_tensor(cold, dtype=torch.int64)], dim=-1)
    place = torch.as_tensor(mature, dtype=torch.int64)
    keys = torch.nn.functional.normalize(ids[place], dim=-1)
    best = (query @ keys.T).topk(min(most, len(place)), dim=-1)
    return place[best.indices].numpy(), best.values.float().numpy()


def cosines(left: Tensor, right: Tensor) -> NDArray[np.float32]:
    """Row-wise cosine of `[m, d]` with `[m, d]`."""
    found: NDArray[np.float32] = torch.nn.functional.cosine_similarity(left, right, dim=-1).float().numpy()
    return found


def thumbnail(picture: bytes | None, decode: Callable[[bytes], Image.Image], *, side: int = 112) -> str | None:
    """A small JPEG as a `data:` URI, or `None` where there is no picture that `decode` can read."""
    if picture is None:
        return None
    try:
        image = decode(picture)
    except ValueError:
        return None
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
