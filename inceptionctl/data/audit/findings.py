"""Kinds of findings on images, which of them are bad, and what is found of one image. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypedDict

from inceptionctl.data.imageset import Span

# Bad: it does not decode, or what comes out is not the picture. Training would have to leave it out.
BAD = {
    "missing": "a link that leads nowhere, or a file that is gone",
    "no file": "a folder, pipe or device, or a file that may not be read",
    "empty": "a file without bytes",
    "no image": "something else under the name of an image",
    "unsupported": "an image of a kind that the decoders do not take",
    "truncated": "ends before the image does",
    "corrupt": "the decoders refuse it",
    "damaged": "decodes, although its metadata or checksums are wrong",
    "colours": "decodes to wrong colours",
    "huge": "more pixels or bytes than anybody decodes",
}
# Odd: it loads right, and is worth knowing.
ODD = {
    "duplicate": "the same bytes as another image",
    "mislabelled": "of another kind than its name says; the content counts",
    "complaint": "a decoder complained, and gave an image",
    "rotated": "turned by its EXIF orientation",
    "cmyk": "CMYK or YCCK, converted to RGB",
    "16-bit": "16 bits a sample, scaled to 8",
    "palette": "colours from a palette",
    "alpha": "transparency, which is dropped",
    "tiny": "a shorter side below 32 pixels",
    "gray": "one channel, repeated three times",
}
KINDS = BAD | ODD


class Answer(TypedDict, total=False):
    """The fields of a Finding less its span, as the process that decodes gives them; those that are not there are as by default."""

    num_bytes: int
    kind: str
    height: int
    width: int
    reason: str | None
    fault: str | None
    remarks: dict[str, str]
    digest: str


@dataclass(frozen=True)
class Finding:
    """What is known of one image after an attempt to decode it."""

    span: Span
    num_bytes: int = 0
    kind: str = "unknown"
    """By content: jpeg, png, bmp, webp, tiff, jpeg2000, pnm, gif, avif, heic or unknown."""
    height: int = 0
    """Pixels, after the EXIF orientation where it is honoured; 0 when not even the header can be read."""
    width: int = 0
    reason: str | None = None
    """Why it cannot be decoded; None when it can."""
    fault: str | None = None
    """The kind of that reason, in BAD."""
    remarks: dict[str, str] = field(default_factory=dict)
    """Kinds of findings on an image that decodes, with words."""
    digest: str = ""
    """128 bits of BLAKE2 of the bytes, hexadecimal; empty when they were not read."""

    @property
    def name(self) -> str:
        """For messages."""
        return self.span.name

    def all_remarks(self) -> dict[str, str]:
        """Everything that is to be said of it, by kind."""
        return {self.fault or "corrupt": self.reason} if self.reason else self.remarks
