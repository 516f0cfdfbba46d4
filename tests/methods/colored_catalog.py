"""A small catalog of images and titles with a color and a shape, and users who click items of one color."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from coldstart.data.content import Content
from coldstart.encoders.tiny_dual_encoder import create_tiny_dual_encoder
from tests.events import Events

COLORS = {"red": (220, 40, 40), "blue": (40, 60, 220), "green": (40, 200, 60), "white": (240, 240, 240)}
ITEMS, USERS, CLICKS, WIDTH = 48, 30, 12, 16


def contents(*, images: bool = True, texts: bool = True) -> list[Content]:
    """Item `i` has color `i % 4`; row 0 is the unknown item."""
    rng = np.random.default_rng(0)
    found = [Content()]
    for index in range(1, ITEMS + 1):
        name, color = list(COLORS.items())[index % 4]
        pixels = np.clip(np.array(color) + rng.normal(0, 25, (16, 16, 3)), 0, 255).astype(np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        title = f"{name} {rng.choice(['vase', 'lamp', 'box'])} number {index}"
        found.append(Content(title if texts else None, None, stream.getvalue() if images else None))
    return found


def reader(items: list[Content]) -> Any:
    """The interface of `stream_items`, in this process."""

    def read(order: np.ndarray, transform: Any, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            yield {"item_idx": chosen, **transform([items[index] for index in chosen])}

    return read


def clicks(seed: int = 0) -> Events:
    """Every user sees items of all colors and clicks those of one color; the last events are for validation."""
    rng = np.random.default_rng(seed)
    color = np.repeat(rng.integers(0, 4, USERS), 2 * CLICKS)
    item = rng.integers(1, ITEMS + 1, len(color))
    place = np.tile(np.arange(2 * CLICKS), USERS)
    favorite = 4 * rng.integers(1, ITEMS // 4, len(color)) + color
    item = np.where(place % 2 == 0, favorite, item)
    return Events(
        offsets=np.arange(USERS + 1) * 2 * CLICKS,
        item_idx=item,
        label=(item % 4 == color).astype(np.int8),
        timestamp=1_700_000_000 + 60 * place,
        split=(place >= 1.6 * CLICKS).astype(np.int8),
    )


def create_towers(path: Path) -> None:
    """The tiny dual encoder of this catalog."""
    titles = [content.title or "" for content in contents()]
    create_tiny_dual_encoder(path, titles * 4, width=WIDTH, image_size=16, max_text_tokens=10, seed=1)
