"""Whether images decode, and what they are like: kinds of findings, and the child process (`probe_process`) that finds them.

A child, because decoders print on file descriptor 2 of their process, which is also where progress is drawn, and because a file
that crashes a decoder must not take a check of a million others with it. Standard library only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import inceptionctl
from inceptionctl.data.imageset import Span
from inceptionctl.errors import EnvironmentFault

_PROGRAM = ("-m", "inceptionctl.data.audit.probe_process")

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


@dataclass
class ImageFinding:
    """What is known of one image, in the end after an attempt to decode it."""

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

    def blame(self, fault: str, reason: str) -> None:
        """It cannot be decoded."""
        self.fault, self.reason, self.remarks = fault, reason, {}

    def all_remarks(self) -> dict[str, str]:
        """Everything that is to be said of it, by kind."""
        return {self.fault or "corrupt": self.reason} if self.reason else self.remarks


class FileProbe:
    """Decodes images for the sake of knowing whether that works. Holds a child process: use it in `contextlib.closing`.

    Raises EnvironmentFault when the child cannot be started or the machine's memory has run out; never on account of a file.
    """

    def __init__(self, num_threads: int, exif_orientation: bool = True) -> None:
        self._arguments = (str(num_threads), str(int(exif_orientation)))
        self._child: subprocess.Popen[str] | None = None

    def look_into(self, spans: Sequence[Span]) -> list[ImageFinding]:
        """One finding an image, in the same order. A child that died is replaced, and the files it had are tried one by one."""
        if not spans:
            return []
        answers = self._ask(spans)
        if answers is not None:
            return [ImageFinding(span, *answer) for span, answer in zip(spans, answers, strict=True)]
        if len(spans) == 1:
            return [ImageFinding(spans[0], reason="the decoder crashed on it", fault="corrupt")]
        return [found for span in spans for found in self.look_into([span])]

    def _ask(self, spans: Sequence[Span]) -> list[list[Any]] | None:
        child = self._child or self._start()
        assert child.stdin is not None and child.stdout is not None  # both are pipes
        places = [[*map(os.fsdecode, (span.path, span.member)), span.offset, span.length] for span in spans]
        try:
            child.stdin.write(json.dumps(places) + "\n")
            child.stdin.flush()
            line = child.stdout.readline()
        except BrokenPipeError:
            line = ""
        if line:
            answers: list[list[Any]] | dict[str, str] = json.loads(line)
            if isinstance(answers, dict):
                raise EnvironmentFault(answers["message"], answers["hint"])
            return answers
        self.close()
        return None

    def _start(self) -> subprocess.Popen[str]:
        # -P and our own place first: the working directory of a user may hold another `pipelines`.
        ours = str(Path(inceptionctl.__path__[0]).parent)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (ours, os.environ.get("PYTHONPATH"))))}
        command = [sys.executable, "-P", *_PROGRAM, *self._arguments]
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        assert self._child.stdout is not None and self._child.stderr is not None
        if self._child.stdout.readline().strip() != "ready":
            said = self._child.stderr.read().strip().splitlines() or ["no message"]
            self.close()
            raise EnvironmentFault(f"the process that decodes images does not start: {said[-1]}")
        return self._child

    def close(self) -> None:
        """End the child process."""
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None
