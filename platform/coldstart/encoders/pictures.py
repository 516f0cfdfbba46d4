"""How a picture reaches an MLLM's own image processor: as a square of one size, or in its own shape."""

from typing import Any

from PIL import Image

from coldstart.config import UserError
from coldstart.data.content import BadPicture, decode_picture

GREY = (127, 127, 127)
# Preparation and the gateway enforce the limits of the recipe; these only bound memory where neither has looked.
MAX_PICTURE_BYTES = 50_000_000
MAX_PICTURE_PIXELS = 50_000_000
LONGEST_ASPECT = 8
"""Longer strips get grey sides: image processors refuse them, and tiles of them would show next to nothing."""


class Pictures:
    """Decodes pictures and says how the image processor is to treat them. Pure and picklable.

    Attributes:
        size: Side of the square, or of the square with as many pixels as a picture in its own shape may have.
        dynamic: Pictures keep their shape; the number of image tokens follows from it.
        options: Keyword arguments for the image processor.
    """

    def __init__(self, image_processor: Any, *, size: int, dynamic: bool) -> None:
        """See the class.

        Raises:
            UserError: this image processor knows one shape only but `dynamic` is asked for.
        """
        self.size = size
        self.dynamic = dynamic
        self.options = _options(image_processor, size=size, dynamic=dynamic)

    def decode(self, data: bytes | None) -> Image.Image:
        """The picture as the image processor gets it; a blank one where there is none or it cannot be decoded."""
        if data is None:
            return self.blank()
        try:
            picture = decode_picture(data, max_bytes=MAX_PICTURE_BYTES, max_pixels=MAX_PICTURE_PIXELS)
        except BadPicture:
            return self.blank()
        return limit_aspect(picture) if self.dynamic else fit(picture, self.size)

    def blank(self) -> Image.Image:
        """What stands where a picture is missing; with dynamic resolution it is a small one."""
        side = min(self.size, 32) if self.dynamic else self.size
        return Image.new("RGB", (side, side), GREY)

    def largest(self) -> Image.Image:
        """A picture as large as they come."""
        return Image.new("RGB", (self.size, self.size), GREY)


def _options(image_processor: Any, *, size: int, dynamic: bool) -> dict[str, Any]:
    """The one place where families differ: what each calls the size of a picture.

    Transformers has no common name for it: Qwen-VL bounds the pixels of a picture, InternVL the number of tiles,
    SmolVLM the longest edge from which tiles are cut.
    """
    own: Any = dict(image_processor.size or {})
    if hasattr(image_processor, "do_image_splitting"):
        return {"size": {"longest_edge": size}}
    if not dynamic:
        return {}
    if hasattr(image_processor, "crop_to_patches"):
        tiles = max(1, size**2 // (own["height"] * own["width"]))
        return {"crop_to_patches": True, "min_patches": 1, "max_patches": tiles}
    if own.get("shortest_edge") and own.get("longest_edge"):
        return {"size": {"shortest_edge": min(own["shortest_edge"], size**2), "longest_edge": size**2}}
    raise UserError(
        f"encoder.dynamic_resolution: {type(image_processor).__name__} of this encoder.mllm knows one shape of picture "
        "only; set encoder.dynamic_resolution to false"
    )


def fit(picture: Image.Image, size: int) -> Image.Image:
    """A picture scaled into a square of `size` pixels, aspect kept, with grey around it."""
    scale = size / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    if (width, height) != picture.size:
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    return _centre(picture, size, size)


def limit_aspect(picture: Image.Image) -> Image.Image:
    """A picture whose longer side is at most `LONGEST_ASPECT` times the other, with grey around it where needed."""
    shortest = -(-max(picture.size) // LONGEST_ASPECT)
    return _centre(picture, max(picture.width, shortest), max(picture.height, shortest))


def _centre(picture: Image.Image, width: int, height: int) -> Image.Image:
    if picture.size == (width, height):
        return picture
    whole = Image.new("RGB", (width, height), GREY)
    whole.paste(picture, ((width - picture.width) // 2, (height - picture.height) // 2))
    return whole
