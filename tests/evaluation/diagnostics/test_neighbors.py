import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from coldstart.evaluation.diagnostics.neighbors import cosines, nearest_items, thumbnail


def test_nearest_are_by_cosine_not_by_length() -> None:
    vectors = torch.tensor([[0.0, 0.0], [1.0, 0.0], [9.0, 9.0], [0.0, 0.1], [0.0, 5.0], [3.0, 0.1]])
    found, cosine = nearest_items(vectors, np.array([4, 5]), np.array([1, 2, 3]), k=2)
    assert found.tolist() == [[3, 2], [1, 2]]
    assert cosine[0].tolist() == pytest.approx([1.0, 0.5**0.5])


def test_fewer_mature_items_than_asked_for_give_fewer_neighbors() -> None:
    found, _ = nearest_items(torch.ones(3, 2), np.array([1]), np.array([2]), k=6)
    assert found.tolist() == [[2]]


def test_cosines_are_row_by_row() -> None:
    assert cosines(torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([[2.0, 0.0], [-1.0, -1.0]])).tolist() == (
        pytest.approx([1.0, -1.0])
    )


def test_a_thumbnail_is_small_and_an_unreadable_image_gives_none() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (640, 320), "red").save(buffer, "PNG")

    def decode(data: bytes) -> Image.Image:
        return Image.open(io.BytesIO(data)).convert("RGB")

    found = thumbnail(buffer.getvalue(), decode, side=64)
    assert found is not None
    kind, _, body = found.partition(",")
    assert kind == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(body))).size == (64, 32)

    def refuse(data: bytes) -> Image.Image:
        raise ValueError("too many pixels")

    assert thumbnail(b"x", refuse) is None
    assert thumbnail(None, decode) is None
