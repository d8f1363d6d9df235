"""Why a file cannot be read, in words for people; and what kind of image its first bytes say it is. Standard library only."""

from __future__ import annotations

import os
import re
from pathlib import Path

# Pixels in a header above which nobody decodes: 200 megapixels are 600 MB of RGB. A file of 1 KB can claim 4 gigapixels.
MOST_PIXELS = 200_000_000
MOST_BYTES = 8 * MOST_PIXELS  # four channels of 16 bits, not compressed

_MAGIC = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"BM", "bmp"),
    (b"II*\x00", "tiff"),
    (b"MM\x00*", "tiff"),
    (b"GIF8", "gif"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "jpeg2000"),
)
_DECODED = ("jpeg", "png", "bmp", "tiff", "webp", "jpeg2000")

# nvImageCodec prints '[ERROR] [module] what it tried - why', in colour; its status numbers alone say little.
_COLOUR_CODES = re.compile(r"\x1b\[[0-9;]*m")
_PREFIX = re.compile(r"^\[(?:ERROR|WARNING|FATAL_ERROR)\]\s*(?:\[\w+\])?\s*(?:Could not [^-]* - )?(?:Error: )?")
_STATUS = re.compile(r"nvImageCodec failure: '#(\d+)'")
_STATUS_WORDS = {"3": "the file is not a valid image", "4": "the file is of no kind that can be decoded"}


def kind_of(head: bytes) -> str:
    """Kind of image from the first 16 bytes: jpeg, png, bmp, webp, tiff, gif, jpeg2000 or unknown."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    return next((kind for magic, kind in _MAGIC if head.startswith(magic)), "unknown")


def look(path: bytes, offset: int = 0, length: int | None = None) -> tuple[int, str, str | None]:
    """(bytes, kind by content, what is wrong as far as this tells without decoding, else None). Never raises on a bad file."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123  (a name in bytes, as the file system gave it)
            size, head = os.fstat(file.fileno()).st_size, os.pread(file.fileno(), 16, offset)
    except OSError as fault:
        return 0, "unknown", os_words(path, fault)
    if length is not None:
        if offset + length > size:
            return max(0, size - offset), "unknown", "the file ends before the image does"
        size = length
    kind = kind_of(head)
    if size == 0:
        return 0, kind, "the file is empty"
    return size, kind, refused_kind(head)


def refused_kind(head: bytes) -> str | None:
    """Why a file with these first 16 bytes is of no kind that is decoded, else None."""
    kind = kind_of(head)
    if kind in _DECODED:
        return None
    return "GIF is not decoded" if kind == "gif" else f"the file is no image (it starts with {head[:8]!r})"


def os_words(path: bytes, fault: OSError) -> str:
    """Why a file cannot be read, from the error of the operating system."""
    if isinstance(fault, FileNotFoundError):
        return "the link leads nowhere" if Path(os.fsdecode(path)).is_symlink() else "the file does not exist"
    return (fault.strerror or str(fault)).lower()


def not_an_image_file(regular: bool, num_bytes: int) -> str | None:
    """Why a file is not even read: a pipe or a device, an empty one, or one that no image of MOST_PIXELS fills."""
    if not regular:
        return "it is no regular file"
    if num_bytes == 0:
        return "the file is empty"
    return f"the file has {num_bytes:,} bytes; {MOST_BYTES:,} is the most" if num_bytes > MOST_BYTES else None


def too_large(height: int, width: int) -> str | None:
    """The reason to leave an image alone whose header claims more than MOST_PIXELS, else None."""
    if height * width <= MOST_PIXELS:
        return None
    megapixels = height * width / 1e6
    return f"the header claims {width} x {height} pixels, {megapixels:,.0f} megapixels; {MOST_PIXELS / 1e6:,.0f} is the most"


def in_words(printed: str, raised: str) -> str:
    """The reason of a failure on one file, from what the decoders printed and what DALI raised."""
    said = noise_words(printed)
    if said:
        return said
    status = _STATUS.search(raised)
    if status:
        return _STATUS_WORDS.get(status[1], f"the decoder refused it (nvImageCodec status {status[1]})")
    if "requested_volume" in raised:  # pipelines.limits.refused_above
        return f"the header claims more than {MOST_PIXELS / 1e6:,.0f} megapixels"
    if "Failed to decode sample" in raised:
        return "no decoder takes it (a 12-bit JPEG, for example)"
    return essence(raised)


def noise_words(printed: str) -> str:
    """What decoders printed, less colour, prefixes and repetition, as one line; empty when they were silent."""
    lines = (_PREFIX.sub("", _COLOUR_CODES.sub("", line).strip()).strip() for line in printed.splitlines())
    unique = list(dict.fromkeys(line for line in lines if line))
    return "; ".join(unique[:3])


def essence(raised: str) -> str:
    """The sentence of a DALI exception that says what happened, without its account of the graph."""
    text = raised.partition("encountered:")[2] or raised
    kept = [
        line.strip() for line in text.splitlines() if line.strip() and not line.startswith(("Current pipeline", "C++ context"))
    ]
    return " ".join(kept) or raised.strip()


def shown(path: bytes) -> str:
    """A file name for people; bytes that are no UTF-8 appear as \\xNN."""
    return path.decode(errors="backslashreplace")
