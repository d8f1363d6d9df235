"""Whether images decode, and what they are like. The work is done by a child process (`probe_process`).

A child, because decoders print on file descriptor 2 of their process, which is also where progress is drawn, and because a file
that crashes a decoder must not take a check of a million others with it. Imports neither DALI nor torch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import inceptionctl
from inceptionctl.data.audit.findings import Answer, Finding
from inceptionctl.data.imageset import Span
from inceptionctl.errors import EnvironmentFault

__all__ = ["FileProbe", "Finding"]

_PROGRAM = ("-m", "inceptionctl.data.audit.probe_process")


class FileProbe:
    """Decodes images for the sake of knowing whether that works. Holds a child process: use it in `contextlib.closing`.

    Raises EnvironmentFault when the child cannot be started or the machine's memory has run out; never on account of a file.
    """

    def __init__(self, num_threads: int, exif_orientation: bool = True) -> None:
        self._arguments = (str(num_threads), str(int(exif_orientation)))
        self._child: subprocess.Popen[str] | None = None

    def look_into(self, spans: Sequence[Span]) -> list[Finding]:
        """One finding an image, in the same order."""
        return [Finding(span, **answer) for span, answer in zip(spans, self._answers(spans), strict=True)]

    def _answers(self, spans: Sequence[Span]) -> list[Answer]:
        """One answer an image. A child that died is replaced, and the files it had are tried one by one."""
        if not spans:
            return []
        answers = self._ask(spans)
        if answers is not None:
            return answers
        if len(spans) == 1:
            return [{"reason": "the decoder crashed on it", "fault": "corrupt"}]
        return [answer for span in spans for answer in self._answers([span])]

    def _ask(self, spans: Sequence[Span]) -> list[Answer] | None:
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
            answers: list[Answer] | dict[str, str] = json.loads(line)
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
