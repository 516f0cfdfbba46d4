"""The content of an item (title, text, encoded image), and the only function that decodes images."""

import hashlib
import io
import json
import warnings
from dataclasses import dataclass

from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")


class InvalidImageError(ValueError):
    """An image is too large or cannot be decoded; the message is the reason."""


@dataclass(frozen=True)
class Content:
    """Content of one item; any part may be missing.

    Attributes:
        title: Short name.
        text: Longer text, tags included.
        image: Encoded bytes, unchanged.
    """

    title: str | None = None
    text: str | None = None
    image: bytes | None = None

    @property
    def digest(self) -> str:
        """sha256 of title, text and image: equal if and only if two contents are equal."""
        image = None if not self.image else hashlib.sha256(self.image).hexdigest()
        return hashlib.sha256(json.dumps([self.title, self.text, image]).encode()).hexdigest()

    @property
    def text_digest(self) -> int:
        """64-bit hash of title and text."""
        return _shortened(Content(self.title, self.text))

    @property
    def image_digest(self) -> int:
        """64-bit hash of the image."""
        return _shortened(Content(image=self.image))


def _shortened(content: Content) -> int:
    return int.from_bytes(bytes.fromhex(content.digest)[:8], "big", signed=True)


def decode_image(data: bytes, *, max_bytes: int, max_pixels: int) -> Image.Image:
    """Decodes an image to upright RGB; transparent pixels become white.

    Args:
        data: Encoded bytes.
        max_bytes: Maximum length of `data`.
        max_pixels: Maximum width x height, read from the header before the image is decoded.

    Raises:
        InvalidImageError: the image exceeds a limit, has a format not in FORMATS, or is broken.
    """
    if len(data) > max_bytes:
        raise InvalidImageError(f"image has {len(data)} bytes, at most {max_bytes} are allowed")
    try:
        with warnings.catch_warnings():
            # Pillow warns at a limit of its own; `max_pixels` below is the one that counts.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise InvalidImageError(f"image has more than {max_pixels} pixels") from error
    except Exception as error:  # decoders raise nearly any exception on broken bytes
        raise InvalidImageError("image is not a JPEG, PNG, WebP, GIF or BMP, or its header is broken") from error
    width, height = image.size
    if width * height > max_pixels:
        raise InvalidImageError(f"image has {width} x {height} pixels, at most {max_pixels} are allowed")
    try:
        upright = ImageOps.exif_transpose(image)
        if "A" in upright.getbands() or "transparency" in upright.info:
            layer = upright.convert("RGBA")
            upright = Image.new("RGBA", layer.size, "white")
            upright.alpha_composite(layer)
        return upright.convert("RGB")
    except Exception as error:  # as above
        raise InvalidImageError("image cannot be decoded") from error
