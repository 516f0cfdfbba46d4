"""Metadata of encoded images: removes it, since pixels are often intact where metadata is broken."""

import zlib

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_APP0, _APP1, _APP14, _APP15, _COMMENT, _START_OF_SCAN = 0xE0, 0xE1, 0xEE, 0xEF, 0xFE, 0xDA
_ADOBE_LENGTH = 14


def without_metadata(data: bytes, *, keep_exif: bool) -> bytes | None:
    """The same pixels without metadata (profiles, texts, times); None if the format is neither PNG nor JPEG.

    What says how pixels are shown is kept: the transparency of a PNG if its checksum is right, and Adobe's color
    transform of a JPEG.

    Args:
        data: Encoded bytes.
        keep_exif: Whether to keep Exif, which holds the orientation.
    """
    if data.startswith(_PNG):
        return _png(data, keep_exif)
    if data.startswith(_JPEG):
        return _jpeg(data, keep_exif)
    return None


def _png(data: bytes, keep_exif: bool) -> bytes:
    kept, start = [_PNG], len(_PNG)
    while start + 12 <= len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        name, checksum = data[start + 4 : start + 8], int.from_bytes(data[end - 4 : end], "big")
        shows = name == b"tRNS" or (name == b"eXIf" and keep_exif)
        if name in _PIXEL_CHUNKS or (shows and zlib.crc32(data[start + 4 : end - 4]) == checksum):
            kept.append(data[start:end])
        start = end
    return b"".join(kept)


def _jpeg(data: bytes, keep_exif: bool) -> bytes:
    kept, start = [_JPEG], len(_JPEG)
    while start + 4 <= len(data) and data[start] == 0xFF and data[start + 1] != _START_OF_SCAN:
        marker, length = data[start + 1], int.from_bytes(data[start + 2 : start + 4], "big")
        segment = data[start : start + 2 + length]
        is_metadata = _APP0 <= marker <= _APP15 or marker == _COMMENT
        adobe = marker == _APP14 and length >= _ADOBE_LENGTH and segment[4:9] == b"Adobe"
        exif = keep_exif and marker == _APP1 and segment[4:10] == b"Exif\0\0"
        if not is_metadata or adobe or exif:
            kept.append(segment)
        start += len(segment)
        if length < 2:
            break
    return b"".join([*kept, data[start:]])
