"""Whether files decode, and why not. The decoding is done by a child process (`probe_process`).

A child, because decoders print on file descriptor 2 of their process, which is also where progress is drawn, and because a file
that crashes a decoder must not take a check of a million others with it. Imports neither DALI nor torch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import inceptionctl
from inceptionctl.data.imageset import Span
from inceptionctl.data.reasons import look
from inceptionctl.errors import EnvironmentFault

_PROGRAM = ("-m", "inceptionctl.data.probe_process")


@dataclass(frozen=True)
class Finding:
    """What is known of one file after an attempt to decode it."""

    span: Span
    num_bytes: int
    kind: str
    """By content: jpeg, png, bmp, webp, tiff, jpeg2000, gif or unknown."""
    reason: str | None = None
    """Why it cannot be decoded; None when it can."""
    remark: str | None = None
    """What a decoder complained about although it gave an image."""
    height: int = 0
    """Pixels after the EXIF orientation; 0 when not even the header can be read."""
    width: int = 0

    @property
    def name(self) -> str:
        """For messages."""
        return self.span.name


class FileProbe:
    """Decodes files for the sake of knowing whether that works. Holds a child process: use it in `contextlib.closing`.

    Raises EnvironmentFault when the child cannot be started; never on account of a file.
    """

    def __init__(self, num_threads: int) -> None:
        self._num_threads = num_threads
        self._child: subprocess.Popen[str] | None = None

    def look_into(self, spans: Sequence[Span]) -> list[Finding]:
        """One finding an image, in the same order."""
        found = [Finding(span, *look(span.path, span.offset, span.length)) for span in spans]
        answers = iter(self._decode([one.span for one in found if one.reason is None]))
        return [one if one.reason else next(answers)(one) for one in found]

    def _decode(self, spans: Sequence[Span]) -> list[_Answer]:
        """One answer an image. A child that died is replaced, and the files it had are tried one by one."""
        if not spans:
            return []
        answers = self._ask(spans)
        if answers is not None:
            return answers
        if len(spans) == 1:
            return [_Answer(reason="the decoder crashed on it")]
        return [answer for span in spans for answer in self._decode([span])]

    def _ask(self, spans: Sequence[Span]) -> list[_Answer] | None:
        child = self._child or self._start()
        assert child.stdin is not None and child.stdout is not None  # both are pipes
        try:
            child.stdin.write(json.dumps([[os.fsdecode(span.path), span.offset, span.length] for span in spans]) + "\n")
            child.stdin.flush()
            line = child.stdout.readline()
        except BrokenPipeError:
            line = ""
        if line:
            return [_Answer(**answer) for answer in json.loads(line)]
        self.close()
        return None

    def _start(self) -> subprocess.Popen[str]:
        # -P and our own place first: the working directory of a user may hold another `pipelines`.
        ours = str(Path(inceptionctl.__path__[0]).parent)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (ours, os.environ.get("PYTHONPATH"))))}
        command = [sys.executable, "-P", *_PROGRAM, str(self._num_threads)]
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


@dataclass(frozen=True)
class _Answer:
    """What the child says of one file."""

    height: int = 0
    width: int = 0
    reason: str | None = None
    remark: str | None = None

    def __call__(self, found: Finding) -> Finding:
        return replace(found, height=self.height, width=self.width, reason=self.reason, remark=self.remark)
