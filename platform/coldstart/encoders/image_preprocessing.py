"""Prepares images for an MLLM's own image processor: as squares of one size, or in their own shape."""

from typing import Any

from PIL import Image

from coldstart.config import UserError
from coldstart.data.content import InvalidImageError, decode_image

GRAY = (127, 127, 127)
# `prepare` and the gateway enforce the limits of the recipe; these only bound memory for images from elsewhere.
MAX_IMAGE_BYTES = 50_000_000
MAX_IMAGE_PIXELS = 50_000_000
LONGEST_ASPECT = 8
"""Longer strips get gray sides: image processors refuse them, and their tiles would show almost nothing."""


class ImagePreprocessor:
    """Decodes images and holds the options of the image processor. Pure and picklable.

    Attributes:
        size: Side of the square in pixels; with `dynamic`, an image has at most about `size`^2 pixels.
        dynamic: Images keep their shape, which sets the number of image tokens.
        options: Keyword arguments for the image processor.
    """

    def __init__(self, image_processor: Any, *, size: int, dynamic: bool) -> None:
        """See the class.

        Raises:
            UserError: `dynamic` is set but this image processor supports a single shape.
        """
        self.size = size
        self.dynamic = dynamic
        self.options = _options(image_processor, size=size, dynamic=dynamic)

    def decode(self, data: bytes | None) -> Image.Image:
        """The image for the image processor; a blank one if there is none or it cannot be decoded."""
        if data is None:
            return self.blank()
        try:
            image = decode_image(data, max_bytes=MAX_IMAGE_BYTES, max_pixels=MAX_IMAGE_PIXELS)
        except InvalidImageError:
            return self.blank()
        return limit_aspect(image, self.size) if self.dynamic else pad_to_square(image, self.size)

    def blank(self) -> Image.Image:
        """Stands for a missing image; small with dynamic resolution."""
        side = min(self.size, 32) if self.dynamic else self.size
        return Image.new("RGB", (side, side), GRAY)

    def largest(self) -> Image.Image:
        """An image of the largest size."""
        return Image.new("RGB", (self.size, self.size), GRAY)


def _options(image_processor: Any, *, size: int, dynamic: bool) -> dict[str, Any]:
    """Options that set the image size. This is the only code that depends on the MLLM family.

    Transformers has no common option: Qwen-VL limits the pixels of an image, InternVL the number of tiles, SmolVLM the
    longest edge before tiling.
    """
    default: Any = dict(image_processor.size or {})
    if hasattr(image_processor, "do_image_splitting"):
        return {"size": {"longest_edge": size}}
    if not dynamic:
        return {}
    if hasattr(image_processor, "crop_to_patches"):
        tiles = max(1, size**2 // (default["height"] * default["width"]))
        return {"crop_to_patches": True, "min_patches": 1, "max_patches": tiles}
    if default.get("shortest_edge") and default.get("longest_edge"):
        return {"size": {"shortest_edge": min(default["shortest_edge"], size**2), "longest_edge": size**2}}
    raise UserError(
        f"encoder.dynamic_resolution: {type(image_processor).__name__} of this encoder.mllm supports a single image "
        "shape; set encoder.dynamic_resolution: false"
    )


def pad_to_square(image: Image.Image, size: int) -> Image.Image:
    """Scales an image into a square of `size` pixels, keeping its aspect ratio, with gray around it."""
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return _center(image, size, size)


def limit_aspect(image: Image.Image, size: int) -> Image.Image:
    """Adds gray sides until the longer side is at most `LONGEST_ASPECT` times the shorter one.

    A strip longer than the image processor can use is scaled down first: with its sides it would not fit into memory.
    """
    longest, bound = max(image.size), LONGEST_ASPECT * size
    if longest > max(bound, LONGEST_ASPECT * min(image.size)):
        width, height = (max(1, round(side * bound / longest)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    shortest = -(-max(image.size) // LONGEST_ASPECT)
    return _center(image, max(image.width, shortest), max(image.height, shortest))


def _center(image: Image.Image, width: int, height: int) -> Image.Image:
    if image.size == (width, height):
        return image
    canvas = Image.new("RGB", (width, height), GRAY)
    canvas.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
    return canvas
