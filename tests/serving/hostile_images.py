"""Hostile images: decompression bombs, other formats, and broken files."""

import gzip
import random
import struct
import zlib

from tests.serving.tiny import png_image


def strange_image(rng: random.Random) -> bytes:
    """Decompression bombs, other formats, and broken images."""
    return rng.choice(
        [
            lambda: png(30_000, 30_000, zlib.compress(b"0")),
            lambda: png(2**31 - 1, 2**31 - 1, b""),
            lambda: png(0, 0, b""),
            lambda: png(50, 50, zlib.compress(b"\0" * 20_000_000)),
            lambda: png(50, 50, zlib.compress(b"\0" * 20), (b"zTXt", b"a\0\0" + zlib.compress(b"a" * 9_000_000))),
            lambda: png(50, 50, zlib.compress(b"\0" * 20), (b"iCCP", b"a\0\0" + zlib.compress(b"a" * 9_000_000))),
            lambda: png_image(3)[: rng.randrange(90)],
            lambda: flipped(rng, png_image(rng.randrange(250))),
            lambda: b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + rng.randbytes(30),
            lambda: (
                b"BM" + struct.pack("<IHHIIiiHH", 100, 0, 0, 54, 40, 2**31 - 1, -(2**31), 1, 24) + rng.randbytes(60)
            ),
            lambda: b"RIFF" + rng.randbytes(4) + b"WEBPVP8X" + rng.randbytes(60),
            lambda: b"\xff\xd8\xff\xe1\xff\xffExif\0\0MM\0*" + rng.randbytes(80),
            lambda: b"II*\0" + rng.randbytes(80),
            lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            lambda: b"<svg xmlns='http://www.w3.org/2000/svg'><image href='http://127.0.0.1/'/></svg>",
            lambda: b"8BPS" + rng.randbytes(60),
            lambda: gzip.compress(b"\0" * 1_000_000),
            lambda: rng.randbytes(200),
        ]
    )()


def png(width: int, height: int, data: bytes, *more: tuple[bytes, bytes]) -> bytes:
    def chunk(kind: bytes, part: bytes) -> bytes:
        return struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    others = b"".join(chunk(*one) for one in more)
    return b"\x89PNG\r\n\x1a\n" + header + others + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def flipped(rng: random.Random, data: bytes) -> bytes:
    part = bytearray(data)
    for _ in range(rng.randrange(1, 6)):
        start = rng.randrange(len(part))
        part[start : start + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
    return bytes(part) or b"\0"
