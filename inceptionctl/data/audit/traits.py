"""What an encoded image is like, from its bytes and without decoding it: cut short, damaged, gray, CMYK, turned, deep, transparent.

Pillow reads the headers. It decodes nothing here, and what it refuses is itself a finding: other programs will refuse it too.
"""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import PurePosixPath

from PIL import ExifTags, Image

Remarks = dict[str, str]

LEAST_PX = 32  # a shorter side below this is enlarged nine times and more for a network of 299 px

_KIND_OF_SUFFIX = {
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".png": "png",
    ".bmp": "bmp",
    ".webp": "webp",
    ".tif": "tiff",
    ".tiff": "tiff",
}
_REFUSALS = {"Truncated File Read": "a chunk ends outside of the file", "cannot identify": "its header makes no sense"}


def mislabelled(name: str, kind: str) -> Remarks:
    """Whether the suffix of a name promises another kind of image than `kind`, the content's."""
    promised = _KIND_OF_SUFFIX.get(PurePosixPath(name).suffix.lower())
    return {"mislabelled": f"{kind} under the name of a {promised}"} if promised not in (None, kind) else {}


def tiny(height: int, width: int) -> Remarks:
    """Whether the shorter side has fewer than LEAST_PX pixels."""
    return {"tiny": f"{width} x {height} pixels"} if 0 < min(height, width) < LEAST_PX else {}


def cut_short(data: bytes, kind: str) -> str | None:
    """Where an image that no decoder takes ends before its own header or format says; None when it does not tell."""
    if kind == "jpeg" and not data.rstrip(b"\0").endswith(b"\xff\xd9"):
        return "it ends without the end marker of a JPEG"
    if kind == "webp" and len(data) < 8 + int.from_bytes(data[4:8], "little"):
        return f"its header promises {8 + int.from_bytes(data[4:8], 'little')} bytes, it has {len(data)}"
    if kind == "bmp" and len(data) < int.from_bytes(data[2:6], "little"):
        return f"its header promises {int.from_bytes(data[2:6], 'little')} bytes, it has {len(data)}"
    if kind == "png" and b"IEND" not in data[-64:]:
        return "it ends without the last chunk of a PNG"
    return None


def misread(data: bytes, kind: str) -> str | None:
    """Why a whole image is refused for being cut short: DALI 2.4 overlooks the byte that pads a WebP's chunk of odd length."""
    if kind == "webp" and b"EXIF" in data and cut_short(data, kind) is None:
        return "a lossless WebP with EXIF, which the decoders stumble over; without its EXIF it decodes"
    return None


def traits(data: bytes, kind: str) -> Remarks:
    """Kinds of findings, as in `findings.KINDS`, with what is to be said of this image; empty for an ordinary one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, on EXIF that it cannot make sense of
        try:
            Image.MAX_IMAGE_PIXELS = None  # our own limit, `reasons.MAX_PIXELS`, comes before
            with Image.open(io.BytesIO(data)) as image:
                found = _colours(image, data, kind) | _turned(image)
            if kind == "png":
                with Image.open(io.BytesIO(data)) as image:
                    image.verify()
        except (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, OverflowError, struct.error) as fault:
            return _refused(str(fault)) if kind in ("jpeg", "png") else {}
    return found


def _refused(said: str) -> Remarks:
    why = next((words for begin, words in _REFUSALS.items() if said.startswith(begin)), said.partition("\n")[0])
    return {"damaged": f"it decodes, but its metadata or checksums are wrong, and Pillow refuses it: {why}"}


def _colours(image: Image.Image, data: bytes, kind: str) -> Remarks:
    mode, found = image.mode, Remarks()
    if mode == "CMYK" and kind == "jpeg" and "adobe" not in image.info:
        found["cmyk"] = "CMYK without Adobe's marker: read as it stands, as TensorFlow does; Pillow reads it inverted"
    elif mode == "CMYK":
        found["cmyk"] = "CMYK"
    if mode in ("1", "L", "LA", "I", "I;16", "I;16B", "F"):
        found["gray"] = "gray"
    if mode in ("P", "PA"):
        found["palette"] = "colours from a palette"
    if mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        found["alpha"] = "transparency is dropped: the colours below it show"
    if mode.startswith("I;16") or (kind == "png" and data[24:25] == b"\x10"):
        found["16-bit"] = "16 bits a sample, scaled to 8"
    if mode == "F":
        found["colours"] = "samples are floating-point numbers, which come out as white"
    if mode == "LAB":
        found["colours"] = "CIELAB colours, which come out wrong"
    return found


def _turned(image: Image.Image) -> Remarks:
    # getexif() of a PNG would decode all of it to look for EXIF at its end.
    exif = image.getexif() if image.format != "PNG" else Image.Exif()
    if image.format == "PNG" and "exif" in image.info:
        exif.load(image.info["exif"])
    orientation = exif.get(ExifTags.Base.Orientation, 1)
    return {"rotated": f"EXIF orientation {orientation}"} if orientation in range(2, 9) else {}
