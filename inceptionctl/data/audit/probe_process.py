"""The child process of `probe`: a line with a JSON list of places comes in, a line with a JSON list of answers goes out.

    python -m inceptionctl.data.audit.probe_process NUM_THREADS EXIF_ORIENTATION

A place is [path, member, offset, bytes]: "", 0 and null for a whole file. It says `ready` once DALI is loaded. An answer is a list
of what follows the span in an ImageFinding. When the machine fails, the line is an object with the `message` and `hint` of an
EnvironmentFault instead.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from nvidia.dali import Pipeline

from inceptionctl.data import reasons
from inceptionctl.data.audit.probe import ImageFinding
from inceptionctl.data.audit.traits import Remarks, cut_short, mislabelled, misread, tiny, traits
from inceptionctl.data.graphs import headers, images
from inceptionctl.data.imageset import Span, read_span
from inceptionctl.data.machine_faults import FROM_DALI, machine_fault
from inceptionctl.errors import DataError, EnvironmentFault
from inceptionctl.stderr_capture import capture_stderr

_GRAPHS = {"headers": headers, "images": images}
_MAX_FILES_AT_ONCE = 64
_MAX_PIXELS_AT_ONCE = 32_000_000  # 100 MB of RGB; a larger image is decoded alone
_MAX_BYTES_AT_ONCE = 256_000_000


@dataclass
class ProbedImage(ImageFinding):
    """One image while it is looked into: what is known so far, and its bytes."""

    data: bytes = b""

    def answer(self) -> list[Any]:
        """What goes out."""
        return [getattr(self, one.name) for one in fields(ImageFinding)[1:]]


class Decoder:
    """Two pipelines, built when needed and again after a failure, which leaves a pipeline of DALI unusable."""

    def __init__(self, num_threads: int, exif_orientation: bool) -> None:
        self._num_threads, self._exif_orientation = num_threads, exif_orientation
        self._pipes: dict[str, Pipeline] = {}
        self._pool = ThreadPoolExecutor(num_threads)

    def answers(self, spans: Sequence[Span]) -> list[list[Any]]:
        """One answer a place. Only a few images at a time are held in memory."""
        looked = list(self._pool.map(_look, spans))
        for batch in _batches(looked, [image.num_bytes for image in looked], _MAX_BYTES_AT_ONCE):
            self._look_into(batch)
        return [image.answer() for image in looked]

    def _look_into(self, batch: Sequence[ProbedImage]) -> None:
        """Headers first, then whole images, but none whose header claims more than MAX_PIXELS."""
        list(self._pool.map(_read, batch))
        self._attempt("headers", _good(batch))
        for image in _good(batch):
            too_large = reasons.too_large(image.height, image.width)
            if too_large:
                image.blame("huge", too_large)
        # The threads of the pool work on the headers while those of DALI decode.
        remarks = self._pool.map(_remarks, good := _good(batch))
        for part in _batches(good, [image.height * image.width for image in good], _MAX_PIXELS_AT_ONCE):
            self._attempt("images", part)
        for image, found in zip(good, remarks, strict=True):
            if image.reason is None:
                image.remarks |= found
        for image in batch:
            stumbled = misread(image.data, image.kind) if image.fault == "truncated" else None
            if stumbled:
                image.blame("unsupported", stumbled)
            short = cut_short(image.data, image.kind) if image.fault in ("corrupt", "unsupported") else None
            if short:
                said = "" if image.fault == "unsupported" else f" ({image.reason})"
                image.blame("truncated", short + said)
            image.data = b""

    def _attempt(self, graph: str, batch: Sequence[ProbedImage]) -> None:
        """Run one graph on some images. A message cannot be told to be about one of many, so then they go one by one."""
        if not batch:
            return
        shapes, said = self._run(graph, batch)
        if said and len(batch) > 1:
            for image in batch:
                self._attempt(graph, [image])
        elif shapes is None:
            batch[0].blame(reasons.fault_of(said), said)
        else:
            for image, (height, width) in zip(batch, shapes, strict=True):
                image.height, image.width = height, width
                if said:
                    image.remarks["complaint"] = said

    def _run(self, graph: str, batch: Sequence[ProbedImage]) -> tuple[list[list[int]] | None, str]:
        """([height, width] of each image, what was said), the former None when it failed."""
        if graph not in self._pipes:
            self._pipes[graph] = _GRAPHS[graph](
                batch_size=_MAX_FILES_AT_ONCE, num_threads=self._num_threads, exif_orientation=self._exif_orientation
            )
        with capture_stderr() as printed:
            try:
                (shapes,) = self._pipes[graph].run(encoded=[np.frombuffer(image.data, dtype=np.uint8) for image in batch])
            except FROM_DALI as fault:
                del self._pipes[graph]
                of_machine = machine_fault(fault, printed())
                if of_machine:
                    raise of_machine from fault
                return None, reasons.in_words(printed(), str(fault))
            return np.array(shapes.as_tensor())[:, :2].tolist(), reasons.noise_words(printed())


def _look(span: Span) -> ProbedImage:
    num_bytes, kind, fault, reason = reasons.look(span.path, span.offset, span.length)
    image = ProbedImage(span, num_bytes=num_bytes, kind=kind)
    if reason:
        image.blame(fault, reason)
    return image


def _read(image: ProbedImage) -> None:
    if image.reason is not None:
        return
    try:
        image.data = read_span(image.span)
    except DataError as fault:
        image.blame("no file", fault.message)
        return
    image.digest = hashlib.blake2b(image.data, digest_size=16).hexdigest()


def _remarks(image: ProbedImage) -> Remarks:
    name = os.fsdecode(image.span.member or image.span.path)
    return mislabelled(name, image.kind) | tiny(image.height, image.width) | traits(image.data, image.kind)


def _good(batch: Sequence[ProbedImage]) -> list[ProbedImage]:
    return [image for image in batch if image.reason is None]


def _batches(images: Sequence[ProbedImage], sizes: Sequence[int], most: int) -> Iterator[list[ProbedImage]]:
    """Runs of images of at most so much size in all; one that is too large by itself stands alone."""
    batch: list[ProbedImage] = []
    total = 0
    for image, size in zip(images, sizes, strict=True):
        if batch and (len(batch) == _MAX_FILES_AT_ONCE or total + size > most):
            yield batch
            batch, total = [], 0
        batch.append(image)
        total += size
    if batch:
        yield batch


def main() -> None:
    """Answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    answers.write("ready\n")
    answers.flush()
    # Whatever a library prints must not end up among the answers, nor fill a pipe that nobody reads any more.
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    decoder = Decoder(int(sys.argv[1]), sys.argv[2] == "1")
    for line in sys.stdin:
        places = [
            Span(os.fsencode(path), offset, length, os.fsencode(member)) for path, member, offset, length in json.loads(line)
        ]
        try:
            answer: Any = decoder.answers(places)
        except EnvironmentFault as fault:
            answer = {"message": fault.message, "hint": fault.hint}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
