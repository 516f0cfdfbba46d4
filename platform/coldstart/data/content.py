"""The content of an item (title, text, encoded image), and the only function that decodes images."""

import hashlib
import io
import json
import warnings
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from coldstart.data.image_metadata import without_metadata

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
_OTHERS = {
    "TIFF": (b"II*\0", b"MM\0*"),
    "base64 text: decode it before you store it": (b"iVBORw0KGgo", b"/9j/", b"UklGR", b"R0lGOD", b"data:image"),
    "HEIC or AVIF": (b"\0\0\0\x18ftyp", b"\0\0\0\x1cftyp", b"\0\0\0\x20ftyp", b"\0\0\0\x24ftyp"),
    "SVG or HTML": (b"<svg", b"<?xml", b"<!DOCTYPE", b"<!doctype", b"<html"),
    "the address of an image, not the image": (b"http://", b"https://", b"s3://", b"file://"),
    "PDF": (b"%PDF",),
}


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
    """Decodes the first frame of an image to upright RGB of 8 bits; transparent pixels become white.

    Broken metadata (profile, Exif, texts) does not matter: the pixels are decoded without it.

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
        return _decode(data, max_pixels)
    except _BrokenImageError as error:
        for keep_exif in (True, False):
            pixels = without_metadata(data, keep_exif=keep_exif)
            if pixels is not None:
                with suppress(_BrokenImageError):
                    return _decode(pixels, max_pixels)
        raise InvalidImageError(str(error)) from error


def image_size(data: bytes) -> tuple[int, int, str] | None:
    """Width, height and format of an image, from its header alone; None if it cannot be read.

    The sides are those that are stored, before Exif turns the image.
    """
    for encoded in (data, without_metadata(data, keep_exif=False)):
        if encoded is None:
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
                    return *image.size, str(image.format)
        except Exception:  # decoders raise nearly any exception on broken bytes
            continue
    return None


class _BrokenImageError(ValueError):
    """A decoder failed; the message is the reason."""


def _decode(data: bytes, max_pixels: int) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Pillow warns at a limit of its own; `max_pixels` below is the one that counts.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise InvalidImageError(f"image has more than {max_pixels} pixels") from error
    except Exception as error:  # decoders raise nearly any exception on broken bytes
        like = next((f"; it looks like {kind}" for kind, start in _OTHERS.items() if data[:12].startswith(start)), "")
        message = f"image is not a JPEG, PNG, WebP, GIF or BMP, or its header is broken{like}"
        raise _BrokenImageError(message) from error
    width, height = image.size
    if width * height > max_pixels:
        raise InvalidImageError(f"image has {width} x {height} pixels, at most {max_pixels} are allowed")
    try:
        image.load()
        upright = _in_8_bits(_upright(image))
        if "A" in upright.getbands() or "transparency" in upright.info:
            layer = upright.convert("RGBA")
            upright = Image.new("RGBA", layer.size, "white")
            upright.alpha_composite(layer)
        return upright.convert("RGB")
    except Exception as error:  # as above
        raise _BrokenImageError("image cannot be decoded") from error


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its Exif says; unchanged if that is broken."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return ImageOps.exif_transpose(image)
    except Exception:  # readers of Exif raise nearly any exception on broken bytes
        return image


def _in_8_bits(image: Image.Image) -> Image.Image:
    """Gray of 16 bits, which Pillow would clip to white, scaled to 8 bits; transparent values become white."""
    clear = image.info.get("transparency")
    if isinstance(clear, tuple) and max(clear) > 255:
        # Pillow keeps the upper 8 bits of colors of 16 bits, but not of the transparent one.
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    scaled = np.clip((values.astype(np.int64) * 255 + 32_767) // 65_535, 0, 255)
    return Image.fromarray(np.where(values == (-1 if clear is None else clear), 255, scaled).astype(np.uint8))
