import io
import resource

import numpy as np
import pytest
from PIL import Image

from coldstart.encoders.image_preprocessing import GRAY, LONGEST_ASPECT, limit_aspect, pad_to_square


@pytest.mark.parametrize("size", [(1, 400_000), (400_000, 1)])
def test_a_strip_does_not_grow_to_a_square_of_its_length(size: tuple[int, int]) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    limited = limit_aspect(Image.new("RGB", size, "red"), 64)
    assert sorted(limited.size) == [64, 64 * LONGEST_ASPECT]
    middle = limited.getpixel(((limited.width - 1) // 2, (limited.height - 1) // 2))
    assert middle == (255, 0, 0)
    assert limited.getpixel((0, 0)) == GRAY
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


@pytest.mark.parametrize("size", [(64, 8), (600, 4), (3000, 400), (5, 9), (512, 8)])
def test_other_shapes_are_not_scaled(size: tuple[int, int]) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8))
    bound = 64 if max(size) <= 512 else 400
    limited = limit_aspect(image, bound)
    assert max(limited.size) <= LONGEST_ASPECT * min(limited.size)
    assert max(limited.size) == max(size)
    left, top = ((a - b) // 2 for a, b in zip(limited.size, size, strict=True))
    np.testing.assert_array_equal(
        np.asarray(limited.crop((left, top, left + size[0], top + size[1]))), np.asarray(image)
    )


@pytest.mark.parametrize("size", [(1, 1), (1, 60_000), (60_000, 1)])
def test_any_shape_fits_a_square(size: tuple[int, int]) -> None:
    stream = io.BytesIO()
    Image.new("RGB", size, "red").save(stream, "PNG")
    assert pad_to_square(Image.open(stream), 32).getpixel((15, 15)) == (255, 0, 0)
