"""Content as the input of registered models: the fields of a row, a valid row, and what a model card says about it."""

import base64
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import pandas as pd
from PIL import Image

from coldstart.config import Artifact, Recipe
from coldstart.data.content import Content
from coldstart.methods.base import FieldSpec

CONTENT_FIELDS = (
    FieldSpec("title", "string", required=False),
    FieldSpec("text", "string", required=False),
    FieldSpec("image", "binary", required=False),
)


def read_contents(rows: pd.DataFrame) -> list[Content]:
    """Contents of rows with title, text and image (encoded image bytes, or base64 of them), each missing or null."""
    return [
        Content(_text(row.get("title")), _text(row.get("text")), _image(row.get("image")))
        for row in rows.to_dict("records")
    ]


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _image(value: Any) -> bytes | None:
    if isinstance(value, str):
        return base64.b64decode(value, validate=True)
    return value if isinstance(value, bytes) else None


def content_row(artifact: Artifact, items: Artifact | None) -> dict[str, Any]:
    """A valid row of content, for any encoder."""
    image = BytesIO()
    Image.new("RGB", (32, 32), (200, 120, 40)).save(image, "PNG")
    return {"title": "A quiet harbour at dusk", "text": "Two boats and a lamp.", "image": image.getvalue()}


def unused_content(recipe: Recipe) -> Sequence[str]:
    """Limitations of a model that the recipe gives only a part of the content."""
    unused = [name.removeprefix("use_") for name, on in recipe.content if not on]
    return [f"It does not use: {', '.join(unused)}."] if unused else []


def encoder_limitations(recipe: Recipe) -> Sequence[str]:
    """Limitations of an encoder."""
    tiny = "The MLLM is the tiny offline model, trained from scratch on this dataset's content."
    return [*unused_content(recipe), *([tiny] if recipe.encoder.mllm == "tiny" else [])]
