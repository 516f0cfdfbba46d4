"""What an item shows: title, text and an encoded picture, and the one door through which pictures are decoded."""

import hashlib
import io
import json
import warnings
from dataclasses import dataclass

from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")


class BadPicture(ValueError):  # noqa: N818 - says what it is
    """A picture that is too large or cannot be decoded; the message is the reason."""


@dataclass(frozen=True)
class Content:
    """Content of one item; any part may be missing.

    Attributes:
        title: Short name.
        text: Longer words, with tags folded in.
        picture: Encoded bytes as given.
    """

    title: str | None = None
    text: str | None = None
    picture: bytes | None = None

    @property
    def digest(self) -> str:
        """sha256 over what it shows: two contents are the same exactly if theirs is."""
        picture = None if not self.picture else hashlib.sha256(self.picture).hexdigest()
        return hashlib.sha256(json.dumps([self.title, self.text, picture]).encode()).hexdigest()

    @property
    def words_digest(self) -> int:
        """64 bits of what title and text show."""
        return _shortened(Content(self.title, self.text))

    @property
    def picture_digest(self) -> int:
        """64 bits of what the picture shows."""
        return _shortened(Content(picture=self.picture))


def _shortened(content: Content) -> int:
    return int.from_bytes(bytes.fromhex(content.digest)[:8], "big", signed=True)


def decode_picture(data: bytes, *, max_bytes: int, max_pixels: int) -> Image.Image:
    """Decodes to upright RGB; transparency becomes white.

    Args:
        data: Encoded bytes.
        max_bytes: Largest length of `data`.
        max_pixels: Largest width x height, read from the header before anything is decoded.

    Raises:
        BadPicture: beyond a limit, of a format not in FORMATS, or broken.
    """
    if len(data) > max_bytes:
        raise BadPicture(f"picture has {len(data)} bytes, at most {max_bytes} are allowed")
    try:
        with warnings.catch_warnings():
            # Pillow's own pixel warning; the limit below is the one that counts.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise BadPicture(f"picture has more than {max_pixels} pixels") from error
    except Exception as error:  # decoders meet broken bytes with nearly every exception there is
        raise BadPicture("picture is not a JPEG, PNG, WebP, GIF or BMP, or its header is broken") from error
    width, height = picture.size
    if width * height > max_pixels:
        raise BadPicture(f"picture has {width} x {height} pixels, at most {max_pixels} are allowed")
    try:
        upright = ImageOps.exif_transpose(picture)
        if "A" in upright.getbands() or "transparency" in upright.info:
            layer = upright.convert("RGBA")
            upright = Image.new("RGBA", layer.size, "white")
            upright.alpha_composite(layer)
        return upright.convert("RGB")
    except Exception as error:  # as above
        raise BadPicture("picture cannot be decoded") from error
