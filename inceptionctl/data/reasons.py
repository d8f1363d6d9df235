"""Why a file cannot be read, in words for people; and what kind of image its first bytes say it is. Standard library only."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path

# Pixels in a header above which nobody decodes: 200 megapixels are 600 MB of RGB. A file of 1 KB can claim 4 gigapixels.
MAX_PIXELS = 200_000_000
MAX_BYTES = 1 << 30  # of an encoded image, which is read into memory whole

_MAGIC = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"BM", "bmp"),
    (b"II*\x00", "tiff"),
    (b"MM\x00*", "tiff"),
    (b"GIF8", "gif"),
    (b"\xff\x4f\xff\x51", "jpeg2000"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "jpeg2000"),
)
_BRANDS = {b"avif": "avif", b"avis": "avif", b"heic": "heic", b"heix": "heic", b"mif1": "heic"}
_NETPBM = re.compile(rb"P[1-6]\s")
_DECODED = ("jpeg", "png", "bmp", "tiff", "webp", "jpeg2000", "pnm")
_UNSUPPORTED = ("gif", "avif", "heic")

# nvImageCodec prints '[ERROR] [module] what it tried - why', in colour; its status numbers alone say little.
_COLOUR_CODES = re.compile(r"\x1b\[[0-9;]*m")
_PREFIX = re.compile(r"^\[(?:ERROR|WARNING|FATAL_ERROR)\]\s*(?:\[\w+\])?\s*(?:Could not [^-]* - )?(?:Error: )?")
# OpenCV, the last resort of the decoders, says where in its own sources it failed, and libtiff's callers which function did.
_OPENCV = re.compile(
    r"\[\s*(?:ERROR|WARN):\d+@[\d.]+\] global \S+ \w+ (?:imdecode_\(''\): can't read data: OpenCV\(\S+\) \S+ error: \([^)]*\) )?"
)
_FUNCTION = re.compile(r" in function '\w+'$|^libtiff call failed with code .*$")
_STATUS = re.compile(r"nvImageCodec failure: '#(\d+)'")
_SHORT = ("premature end", "end of stream", "incomplete", "read error", "end of input", "too short", "size is not big enough")
_STATUS_WORDS = {"3": "the file is not a valid image", "4": "the file is of no kind that can be decoded"}


def kind_of(head: bytes) -> str:
    """Kind of image from the first 16 bytes: jpeg, png, bmp, webp, tiff, jpeg2000, pnm, gif, avif, heic or unknown."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[4:8] == b"ftyp" and head[8:12] in _BRANDS:
        return _BRANDS[head[8:12]]
    if _NETPBM.match(head):
        return "pnm"
    return next((kind for magic, kind in _MAGIC if head.startswith(magic)), "unknown")


Looked = tuple[int, str, str, str | None]


def look(path: bytes, offset: int = 0, length: int | None = None) -> Looked:
    """(bytes, kind by content, kind of what is wrong as far as this tells without decoding or "", that in words or None).

    Never raises on account of a file, and never waits for one that is a pipe.
    """
    try:
        # A pipe without a writer would block the opening for good.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            told, head = os.fstat(descriptor), b""
            if stat.S_ISREG(told.st_mode):
                head = os.pread(descriptor, 16, offset)
        finally:
            os.close(descriptor)
    except OSError as fault:
        gone = isinstance(fault, FileNotFoundError)
        return 0, "unknown", "missing" if gone else "no file", os_words(path, fault)
    if not stat.S_ISREG(told.st_mode):
        return 0, "unknown", "no file", of_no_file(told.st_mode)
    size = told.st_size
    if length is not None:
        if offset + length > size:
            return max(0, size - offset), "unknown", "truncated", "the file ends before the image does"
        size = length
    return size, kind_of(head), *wrong_at_once(size, head)


def of_no_file(mode: int) -> str:
    """What something is that is no regular file, from its mode."""
    return f"it is a {'folder' if stat.S_ISDIR(mode) else 'pipe or a device'}, not a file"


def wrong_at_once(size: int, head: bytes) -> tuple[str, str | None]:
    """Kind of what is wrong with an image of so many bytes that begins with these 16, or "", and that in words, or None."""
    kind = kind_of(head)
    if size == 0:
        return "empty", "the file is empty"
    if kind in _UNSUPPORTED:
        return "unsupported", f"{kind.upper()} is not decoded"
    if kind not in _DECODED:
        return "no image", f"the file is no image (it starts with {head[:8]!r})"
    long = too_long(size)
    return "huge" if long else "", long


def os_words(path: bytes, fault: OSError) -> str:
    """Why a file cannot be read, from the error of the operating system."""
    if isinstance(fault, FileNotFoundError):
        return "the link leads nowhere" if Path(os.fsdecode(path)).is_symlink() else "the file does not exist"
    if isinstance(fault, IsADirectoryError):
        return "it is a folder"
    return (fault.strerror or str(fault)).lower()


def too_long(num_bytes: int) -> str | None:
    """The reason not even to read a file of more than MAX_BYTES, else None."""
    return f"it has {num_bytes:,} bytes; {MAX_BYTES:,} is the most" if num_bytes > MAX_BYTES else None


def too_large(height: int, width: int) -> str | None:
    """The reason to leave an image alone whose header claims more than MAX_PIXELS, else None."""
    if height * width <= MAX_PIXELS:
        return None
    megapixels = height * width / 1e6
    return f"the header claims {width} x {height} pixels, {megapixels:,.0f} megapixels; {MAX_PIXELS / 1e6:,.0f} is the most"


def in_words(printed: str, raised: str) -> str:
    """The reason of a failure on one file, from what the decoders printed and what DALI raised."""
    said = noise_words(printed)
    if said:
        return said
    status = _STATUS.search(raised)
    if status:
        return _STATUS_WORDS.get(status[1], f"the decoder refused it (nvImageCodec status {status[1]})")
    if "requested_volume" in raised:  # pipelines.decoding.refused_above
        return f"the header claims more than {MAX_PIXELS / 1e6:,.0f} megapixels"
    if "Failed to decode sample" in raised:
        return "no decoder takes it (a 12-bit JPEG, for example)"
    return essence(raised)


def noise_words(printed: str) -> str:
    """What decoders printed, less colour, prefixes and repetition, as one line; empty when they were silent."""
    patterns = (_COLOUR_CODES, _OPENCV, _FUNCTION)
    lines = (_PREFIX.sub("", _without(patterns, line)).strip() for line in printed.splitlines())
    unique = list(dict.fromkeys(line for line in lines if line))
    return "; ".join(unique[:3])


def _without(patterns: Iterable[re.Pattern[str]], line: str) -> str:
    for pattern in patterns:
        line = pattern.sub("", line.strip())
    return line.strip()


def fault_of(reason: str) -> str:
    """The kind of a reason that the decoders gave, in `findings.BAD`."""
    said = reason.lower()
    if any(words in said for words in _SHORT):
        return "truncated"
    return "unsupported" if said.startswith(("no decoder takes", "the file is of no kind")) else "corrupt"


def essence(raised: str) -> str:
    """The sentence of a DALI exception that says what happened, without its account of the graph."""
    text = (raised.partition("encountered:")[2] or raised).partition("Stacktrace (")[0]
    kept = [
        line.strip() for line in text.splitlines() if line.strip() and not line.startswith(("Current pipeline", "C++ context"))
    ]
    return " ".join(kept) or raised.strip()


def shown(path: bytes) -> str:
    """A file name for people; bytes that are no UTF-8 appear as \\xNN."""
    return path.decode(errors="backslashreplace")
