"""Damaged image files, made: each is spoilt in one way, beside those of libraries' own tests in tests/images/bad."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

from PIL import Image

from tests.data.conftest import photo


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=kind, **options)
    return stream.getvalue()


def damaged() -> dict[str, bytes]:
    """Name -> file."""
    picture = Image.fromarray(photo(5, 256, 200))
    progressive = encoded(picture, "JPEG", quality=90, progressive=True)
    cmyk = encoded(picture.convert("CMYK"), "JPEG", quality=90)
    middle = len(progressive) // 2
    return {
        "empty.JPEG": b"",
        "text.jpg": b"A text, whatever its name says.\n" * 40,
        "no_png.png": b"\x89PNG\r\n\x1a\n" + bytes(range(120)),
        "truncated_cmyk.jpg": cmyk[: len(cmyk) // 2],
        "progressive_of_rubbish.jpg": progressive[:middle] + bytes(300) + b"\xff\xc4\x00\x03" + progressive[middle + 300 :],
        "claims_4_gigapixels.jpg": of_size(encoded(picture, "JPEG", progressive=True)[:1400], 64250, 64250),
        "whole_749_megapixels.jpg": flat_jpeg(33312, 22496),
        "claims_800_gigapixels.png": claiming(encoded(picture, "PNG"), 894272, 894272),
        "ends_early.png": ending_early(picture),
    }


def of_size(jpeg: bytes, width: int, height: int) -> bytes:
    """The same with other sides in its header, whichever kind it is."""
    data = bytearray(jpeg)
    start = next(place for kind in (b"\xff\xc0", b"\xff\xc2") if (place := data.find(kind)) > 0) + 5
    data[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def flat_jpeg(width: int, height: int) -> bytes:
    """A whole gray JPEG of one colour, written without its pixels; the number of its blocks of 8 x 8 is a multiple of 4."""
    gray = encoded(Image.new("L", (8, 8), 128), "JPEG")
    header = of_size(gray[: gray.index(b"\xff\xda") + 10], width, height)
    # By the usual Huffman tables a block like the one before is 00, a difference of 0, and 1010, its end.
    four_blocks = int("001010" * 4, 2).to_bytes(3, "big")
    return header + four_blocks * (width // 8 * (height // 8) // 4) + b"\xff\xd9"


def claiming(png: bytes, width: int, height: int) -> bytes:
    """The same with other sides in its header, the checksum right."""
    return png[:8] + _chunk(b"IHDR", struct.pack(">II", width, height) + png[24:29]) + png[33:]


def ending_early(picture: Image.Image) -> bytes:
    """A PNG with alpha whose pixels end in the middle, in chunks that are whole."""
    png = encoded(picture.convert("RGBA"), "PNG")
    start = png.index(b"IDAT") + 4
    pixels = png[start : start + int.from_bytes(png[start - 8 : start - 4], "big")]
    return png[:33] + _chunk(b"IDAT", pixels[: len(pixels) // 2]) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
