"""The child process of `probing`: a line with a JSON list of places comes in, a line with a JSON list of answers goes out.

    python -m inceptionctl.data.probe_process NUM_THREADS

A place is [path, offset, bytes]: 0 and null for a whole file. It says `ready` once DALI is loaded. An answer is
{height, width, reason, remark} of one image; see `probing.Finding`.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inceptionctl.data import reasons
from inceptionctl.data.graphs import headers, images
from inceptionctl.data.imageset import Span, read_span
from inceptionctl.errors import DataError

_GRAPHS = {"headers": headers, "images": images}
_MOST_FILES_AT_ONCE = 64
_MOST_PIXELS_AT_ONCE = 32_000_000  # 100 MB of RGB; a larger image is decoded alone

Answer = dict[str, Any]


class Decoder:
    """Two pipelines, built when needed and again after a failure, which leaves a pipeline of DALI unusable."""

    def __init__(self, num_threads: int, stderr: int) -> None:
        """`stderr` is the file that descriptor 2 leads to: C libraries write their complaints there by themselves."""
        self._num_threads = num_threads
        self._stderr = stderr
        self._pipes: dict[str, Any] = {}
        self._pool = ThreadPoolExecutor(num_threads)

    def answers(self, spans: Sequence[Span]) -> list[Answer]:
        """One answer a place: headers first, then whole images, but none whose header claims more than MOST_PIXELS."""
        found: list[Answer] = [{"height": 0, "width": 0, "reason": None, "remark": None} for _ in spans]
        for batch in _batches(range(len(spans)), [0] * len(spans)):
            self._attempt("headers", batch, spans, found)
        sizes = [answer["height"] * answer["width"] for answer in found]
        for answer in found:
            answer["reason"] = answer["reason"] or reasons.too_large(answer["height"], answer["width"])
        for batch in _batches([i for i, answer in enumerate(found) if answer["reason"] is None], sizes):
            self._attempt("images", batch, spans, found)
        return found

    def _attempt(self, graph: str, batch: Sequence[int], spans: Sequence[Span], found: list[Answer]) -> None:
        """Run one graph on some files. A message cannot be told to be about one of many, so then they go one by one."""
        shapes, said = self._run(graph, [spans[i] for i in batch])
        if said and len(batch) > 1:
            for i in batch:
                self._attempt(graph, [i], spans, found)
        elif shapes is None:
            found[batch[0]]["reason"] = said
        else:
            for i, (height, width) in zip(batch, shapes, strict=True):
                found[i] = {"height": height, "width": width, "reason": None, "remark": said or None}

    def _run(self, graph: str, spans: Sequence[Span]) -> tuple[list[list[int]] | None, str]:
        """([height, width] of each file, what was said), the former None when it failed."""
        if graph not in self._pipes:
            self._pipes[graph] = _GRAPHS[graph](batch_size=_MOST_FILES_AT_ONCE, num_threads=self._num_threads)
        self._silence()
        try:
            (shapes,) = self._pipes[graph].run(encoded=list(self._pool.map(_read, spans)))
        except DataError as fault:
            return None, fault.message
        except (RuntimeError, MemoryError) as fault:
            del self._pipes[graph]
            return None, reasons.in_words(self._printed(), str(fault))
        return np.array(shapes.as_tensor())[:, :2].tolist(), reasons.noise_words(self._printed())

    def _silence(self) -> None:
        os.ftruncate(self._stderr, 0)
        os.lseek(self._stderr, 0, os.SEEK_SET)

    def _printed(self) -> str:
        return os.pread(self._stderr, 1 << 16, 0).decode(errors="replace")


def _read(span: Span) -> NDArray[np.uint8]:
    return np.frombuffer(read_span(span), dtype=np.uint8)


def _batches(indices: Sequence[int], sizes: Sequence[int]) -> Iterator[list[int]]:
    """Runs of indices with at most so many files and pixels in all; one that is too large by itself stands alone."""
    batch: list[int] = []
    pixels = 0
    for i in indices:
        if batch and (len(batch) == _MOST_FILES_AT_ONCE or pixels + sizes[i] > _MOST_PIXELS_AT_ONCE):
            yield batch
            batch, pixels = [], 0
        batch.append(i)
        pixels += sizes[i]
    if batch:
        yield batch


def main() -> None:
    """Answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints on stdout must not end up among the answers
    with tempfile.TemporaryFile() as printed:
        answers.write("ready\n")
        answers.flush()
        os.dup2(printed.fileno(), 2)
        decoder = Decoder(int(sys.argv[1]), printed.fileno())
        for line in sys.stdin:
            found = decoder.answers([Span(os.fsencode(path), *place) for path, *place in json.loads(line)])
            answers.write(json.dumps(found) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
