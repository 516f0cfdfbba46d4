import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from coldstart.data.content import FORMATS, Content, InvalidImageError, decode_image, image_size

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


RAMP = np.linspace(0, 65_535, 64).reshape(8, 8).astype(np.uint16)


def _png_of_16_bits(color_type: int, channels: int, extra: bytes = b"") -> bytes:
    samples = np.stack([RAMP] * channels, -1)
    if color_type in (4, 6):
        samples[..., -1] = 65_535
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, color_type, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")


@pytest.mark.parametrize(("color_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)], ids=["L", "RGB", "LA", "RGBA"])
def test_16_bits_are_scaled_to_8(color_type: int, channels: int) -> None:
    pixels = np.asarray(decode_image(_png_of_16_bits(color_type, channels), **LIMITS))
    np.testing.assert_allclose(pixels, np.stack([RAMP / 257] * 3, -1), atol=1)
    assert (pixels[0, 0].tolist(), pixels[-1, -1].tolist()) == ([0] * 3, [255] * 3)


@pytest.mark.parametrize(("color_type", "channels"), [(0, 1), (2, 3)], ids=["L", "RGB"])
def test_the_transparent_value_of_16_bits_becomes_white(color_type: int, channels: int) -> None:
    clear = _chunk(b"tRNS", struct.pack(">H", RAMP[3, 4]) * channels)
    pixels = np.asarray(decode_image(_png_of_16_bits(color_type, channels, clear), **LIMITS))
    assert pixels[3, 4].tolist() == [255] * 3
    assert (pixels[:3] < 255).all()


def test_the_values_of_16_bits_are_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    pixels = np.asarray(decode_image(_encoded(Image.fromarray(RAMP), "PNG", exif=exif), **LIMITS))
    np.testing.assert_array_equal(pixels[..., 0], np.round(RAMP / 257)[::-1, ::-1])


@pytest.mark.parametrize("transparency", [1, bytes([255, 0, 255])], ids=["index", "alpha per color"])
@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_color_of_a_palette_becomes_white(kind: str, transparency: object) -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    image.putpixel((0, 0), 2)
    if kind == "GIF":
        transparency = 1
    decoded = decode_image(_encoded(image, kind, transparency=transparency), **LIMITS)
    assert (decoded.getpixel((0, 0)), decoded.getpixel((4, 4))) == ((0, 255, 0), (255, 255, 255))


def test_inverted_cmyk_of_adobe_has_the_right_colors() -> None:
    data = _encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95)
    assert b"Adobe" in data
    np.testing.assert_allclose(decode_image(data, **LIMITS).getpixel((4, 4)), (255, 0, 0), atol=3)
    broken = data[:2] + b"\xff\xe0\0\7JFIF\0" + data[2:]
    np.testing.assert_allclose(decode_image(broken, **LIMITS).getpixel((4, 4)), (255, 0, 0), atol=3)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_counts(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue", "blue")]
    data = _encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    np.testing.assert_allclose(decode_image(data, **LIMITS).getpixel((4, 4)), (255, 0, 0), atol=3)


RED = Image.new("RGB", (8, 4), "red")


def _png_with(chunk: bytes, *, before: bytes = b"IDAT") -> bytes:
    data = _encoded(RED, "PNG")
    start = data.index(before) - 4
    return data[:start] + chunk + data[start:]


def _jpeg_with(segment: int, body: bytes, **options: object) -> bytes:
    data = _encoded(RED, "JPEG", **options)
    return data[:2] + bytes([0xFF, segment]) + struct.pack(">H", len(body) + 2) + body + data[2:]


BROKEN_METADATA = {
    "profile": _png_with(_chunk(b"iCCP", b"x\0\5garbage")),
    "empty profile": _png_with(_chunk(b"iCCP", b"")),
    "checksum of a text": _png_with(_chunk(b"tEXt", b"a\0b")[:-1] + b"?"),
    "compression of a text": _png_with(_chunk(b"zTXt", b"a\0\7b")),
    "huge text": _png_with(_chunk(b"zTXt", b"a\0\0" + zlib.compress(b"0" * 2_000_000))),
    "Exif": _png_with(_chunk(b"eXIf", b"garbage")),
    "cut density": _png_with(_chunk(b"pHYs", b"\0")),
    "cut gamma": _png_with(_chunk(b"gAMA", b"\0")),
    "cut animation": _png_with(_chunk(b"acTL", b"\0")),
    "checksum of transparency": _png_with(_chunk(b"tRNS", b"\0\xff\0\0\0\0")[:-1] + b"?"),
    "text cut off at the end": _png_with(b"", before=b"IEND")[:-12] + _chunk(b"tEXt", b"a\0" + b"b" * 50)[:20],
    "missing end": _encoded(RED, "PNG")[:-12],
    "JPEG profile": _jpeg_with(0xE2, b"ICC_PROFILE\0"),
    "JPEG header": _jpeg_with(0xE0, b"JFIF\0"),
    "JPEG Adobe": _jpeg_with(0xEE, b"Adobe\0"),
    "JPEG Exif": _jpeg_with(0xE1, b"Exif\0\0garbage"),
    "JPEG Exif that is cut off": _jpeg_with(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01"),
    "JPEG Photoshop": _jpeg_with(0xED, b"Photoshop 3.0\x008BIM\x04"),
    "WebP": _encoded(RED, "WEBP", exif=b"Exif\0\0garbage", icc_profile=b"garbage"),
}


@pytest.mark.parametrize("case", BROKEN_METADATA)
def test_broken_metadata_does_not_lose_the_pixels(case: str) -> None:
    decoded = decode_image(BROKEN_METADATA[case], **LIMITS)
    assert decoded.size == (8, 4)
    np.testing.assert_allclose(decoded.getpixel((4, 2)), (255, 0, 0), atol=3)
    assert image_size(BROKEN_METADATA[case])[:2] == (8, 4)


def test_the_orientation_is_kept_beside_broken_metadata() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_image(_jpeg_with(0xE2, b"ICC_PROFILE\0", exif=exif), **LIMITS).size == (4, 8)
    data = _encoded(RED, "PNG", exif=exif)
    start = data.index(b"IDAT") - 4
    assert decode_image(data[:start] + _chunk(b"pHYs", b"\0") + data[start:], **LIMITS).size == (4, 8)


def test_transparency_is_kept_beside_broken_metadata() -> None:
    data = _png_with(_chunk(b"tRNS", b"\0\xff\0\0\0\0") + _chunk(b"pHYs", b"\0"))
    assert decode_image(data, **LIMITS).getpixel((4, 2)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_pixels_that_are_cut_off_are_broken_beside_broken_metadata_too(kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8))
    data = _encoded(noise, kind)
    extra = _chunk(b"pHYs", b"\0") if kind == "PNG" else b"\xff\xe0\0\7JFIF\0"
    start = data.index(b"IDAT") - 4 if kind == "PNG" else 2
    with pytest.raises(InvalidImageError):
        decode_image(data[:start] + extra + data[start:-2000], **LIMITS)


def test_limits_hold_without_metadata_too() -> None:
    info = PngImagePlugin.PngInfo()
    info.add(b"pHYs", b"\0")
    with pytest.raises(InvalidImageError, match="120 x 120 pixels"):
        decode_image(_encoded(Image.new("RGB", (120, 120)), "PNG", pnginfo=info), **LIMITS)


@pytest.mark.parametrize("size", [(1, 1), (1, 9000), (9000, 1)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_extreme_shapes_are_decoded(size: tuple[int, int], kind: str) -> None:
    decoded = decode_image(_encoded(Image.new("RGB", size, "red"), kind), **LIMITS)
    assert decoded.size == size
    np.testing.assert_allclose(decoded.getpixel((0, 0)), (255, 0, 0), atol=3)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (_encoded(Image.new("F", (4, 4)), "TIFF"), "TIFF"),
        (b"iVBORw0KGgoAAAANSUhEUg", "base64 text"),
        (b"https://example.org/a.jpg", "the address of an image"),
        (b"<svg xmlns=''/>", "SVG"),
    ],
)
def test_what_is_not_an_image_of_an_allowed_format_is_named(data: bytes, kind: str) -> None:
    with pytest.raises(InvalidImageError, match=f"not a JPEG.*it looks like {kind}"):
        decode_image(data, **LIMITS)


@pytest.mark.parametrize("kind", FORMATS)
def test_the_size_of_an_image_comes_from_its_header(kind: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (31, 17)).save(buffer, kind)
    assert image_size(buffer.getvalue()) == (31, 17, kind)
    assert image_size(buffer.getvalue()[:2]) is None


def test_the_size_does_not_need_the_pixels() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (3000, 2000)).save(buffer, "PNG")
    assert image_size(buffer.getvalue()[:60]) == (3000, 2000, "PNG")
