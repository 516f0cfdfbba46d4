import io
import struct
import zlib

import pytest
from PIL import Image

from coldstart.data.content import Content, InvalidImageError, decode_image

LIMITS = {"max_bytes": 100_000, "max_pixels": 10_000}


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims a huge image."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", zlib.compress(b"")) + _chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [101, 12_000, 60_000])
def test_a_bomb_is_refused_by_its_header(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decode)
    with pytest.raises(InvalidImageError, match="pixels"):
        decode_image(_bomb(side, side), **LIMITS)


def test_too_many_bytes_are_refused() -> None:
    with pytest.raises(InvalidImageError, match=r"200000 bytes, at most 100000"):
        decode_image(bytes(200_000), **LIMITS)


@pytest.mark.parametrize(
    "data",
    [b"", b"not an image", _encoded(Image.new("RGB", (60, 60), "red"), "JPEG")[:-200], _bomb(50, 50)],
    ids=["empty", "words", "truncated", "no pixels"],
)
def test_broken_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidImageError):
        decode_image(data, **LIMITS)


def test_transparency_becomes_white() -> None:
    clear = decode_image(_encoded(Image.new("RGBA", (4, 4), (255, 0, 0, 0)), "PNG"), **LIMITS)
    assert clear.mode == "RGB"
    assert clear.getpixel((1, 1)) == (255, 255, 255)


def test_images_are_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_image(_encoded(Image.new("RGB", (8, 4)), "JPEG", exif=exif), **LIMITS).size == (4, 8)


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "RGB"])
def test_any_color_mode_becomes_rgb(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    assert decode_image(_encoded(Image.new(mode, (5, 5)), kind), **LIMITS).mode == "RGB"


def test_text_and_image_digests_are_independent():
    assert Content("a", "b").text_digest == Content("a", "b", b"p").text_digest
    assert len({Content(*parts).text_digest for parts in [("a", "b"), ("ab",), (None, "ab"), ("b", "a"), ()]}) == 5
    assert Content("a", image=b"p").image_digest == Content("b", image=b"p").image_digest
    assert Content("a", image=b"p").image_digest != Content("a").image_digest
    assert Content("a").text_digest.bit_length() < 64
