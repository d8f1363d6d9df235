"""Encoded images from files and shards, read a few batches ahead by threads, so that training waits for a slow disk only.

Read here and not by DALI, because a file that vanishes, is cut short or does not answer must not end the whole batch.
"""

from __future__ import annotations

import os
import queue
import resource
import stat
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inceptionctl.data import reasons
from inceptionctl.data.imageset import CUT_SHORT, ImageSet

Indices = NDArray[np.int64]
Encoded = NDArray[np.uint8]

NUM_THREADS = 4  # reading frees Python's lock and waits for the disk; more of them only help where the disk is far away
BATCHES_AHEAD = 4
SECONDS_TO_CLOSE = 1.0

# Bytes of markers of a JPEG; the last have no length: TEM and RST0 to RST7.
_START, _END = 0xD8, 0xD9
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE = frozenset((0x01, *range(0xD0, 0xD8)))


class ReadAhead:
    """The images of (index, inputs) pairs, in the order of these: gives (index, encoded images, inputs).

    An image is read once and into memory of its own, which is handed on as it is. In the place of one that cannot be read whole,
    or that has not come after `seconds` of waiting for nothing else, stands the DataError that says why.
    """

    def __init__(self, images: ImageSet, inputs: Iterator[tuple[Indices, Any]], *, seconds: float) -> None:
        self._inputs = inputs
        self._seconds = seconds
        self._source = _Source(images)
        self._readers = _Readers(NUM_THREADS, self._source.read)
        self._waiting: deque[tuple[Indices, list[_Part], Any]] = deque()

    def __iter__(self) -> Iterator[tuple[Indices, list[Encoded | str], Any]]:
        """Itself: the inputs are used up once."""
        return self

    def __next__(self) -> tuple[Indices, list[Encoded | str], Any]:
        """The next batch; waits only if its images are not there yet."""
        while len(self._waiting) <= BATCHES_AHEAD and self._submit_next():
            pass
        if not self._waiting:
            raise StopIteration
        index, parts, inputs = self._waiting.popleft()
        return index, [image for part in parts for image in self._images_of(part)], inputs

    def read(self, i: int) -> Encoded | str:
        """One image out of turn."""
        part = _Part([i])
        self._readers.submit(part)
        (image,) = self._images_of(part)
        return image

    def _submit_next(self) -> bool:
        following = next(self._inputs, None)
        if following is None:
            return False
        index, inputs = following
        parts = [_Part(some.tolist()) for some in np.array_split(index, min(NUM_THREADS, len(index)))]
        for part in parts:
            self._readers.submit(part)
        self._waiting.append((index, parts, inputs))
        return True

    def _images_of(self, part: _Part) -> list[Encoded | str]:
        read = -1
        while not part.done.wait(self._seconds):
            if len(part.images) == read:
                return self._images_without_the_stalled(part)
            read = len(part.images)
        return part.images

    def _images_without_the_stalled(self, part: _Part) -> list[Encoded | str]:
        # The thread cannot be called back from the operating system: it is given up, and another one takes its place.
        part.given_up = True
        read = part.images[:]
        stalled = f"nothing came for {self._seconds:g} seconds"
        self._source.stalled[part.index[len(read)]] = stalled
        rest = _Part(part.index[len(read) + 1 :])
        self._readers.add_one()
        self._readers.submit(rest)
        return [*read, stalled, *self._images_of(rest)]

    def close(self) -> None:
        """Stop reading and close the files."""
        self._waiting.clear()
        if self._readers.stop():
            self._source.close()


class _Source:
    """Reads one image from its file or shard. Apart from ReadAhead, so that threads hold no loader that nobody else holds."""

    def __init__(self, images: ImageSet) -> None:
        self._images = images
        self._files = _Files(images)
        self.stalled: dict[int, str] = {}

    def read(self, i: int) -> Encoded | str:
        """The image, or why it cannot be had. One that has stalled is not waited for again."""
        if i in self.stalled:
            return self.stalled[i]
        span = self._images.span(i)
        try:
            with self._files.opened(span.path) as descriptor:
                return self._read_from(descriptor, span.offset, span.length)
        except OSError as fault:
            return reasons.os_words(span.path, fault)

    @staticmethod
    def _read_from(descriptor: int, offset: int, length: int | None) -> Encoded | str:
        if length is None:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return reasons.of_no_file(status.st_mode)
            length = status.st_size
            long = reasons.too_long(length)
            if long:
                return long
        image = np.empty(length, dtype=np.uint8)
        read = 0
        while read < length:
            count = os.preadv(descriptor, [image[read:].data], offset + read)
            if count == 0:
                return CUT_SHORT
            read += count
        mend_gray(image)
        return reasons.wrong_at_once(length, image[:16].tobytes())[1] or image

    def close(self) -> None:
        self._files.close()


class _Part:
    """Some images that one thread reads, one after another."""

    def __init__(self, index: list[int]) -> None:
        self.index = index
        self.images: list[Encoded | str] = []
        self.done = threading.Event()
        self.given_up = False


class _Readers:
    """Threads that read parts. Daemons, unlike a pool's: one that hangs in the operating system must not keep the process alive."""

    def __init__(self, count: int, read: Callable[[int], Encoded | str]) -> None:
        self._read = read
        self._parts: queue.SimpleQueue[_Part | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._dismiss = weakref.finalize(self, _dismiss, self._parts, self._threads)
        for _ in range(count):
            self.add_one()

    def submit(self, part: _Part) -> None:
        self._parts.put(part)

    def add_one(self) -> None:
        thread = threading.Thread(target=_work, args=(self._parts, self._read), name="read-ahead", daemon=True)
        self._threads.append(thread)
        thread.start()

    def stop(self) -> bool:
        """End the threads after the image that they are at. Whether they have ended; one that hangs has not."""
        self._dismiss()
        for thread in self._threads:
            thread.join(SECONDS_TO_CLOSE)
        return not any(thread.is_alive() for thread in self._threads)


def _dismiss(parts: queue.SimpleQueue[_Part | None], threads: Sequence[threading.Thread]) -> None:
    with suppress(queue.Empty):
        while True:
            parts.get_nowait()
    for _ in threads:
        parts.put(None)


def _work(parts: queue.SimpleQueue[_Part | None], read: Callable[[int], Encoded | str]) -> None:
    while (part := parts.get()) is not None:
        for i in part.index:
            image = read(i)
            if part.given_up:
                return
            part.images.append(image)
        part.done.set()


class _Files:
    """Descriptors of shards, opened when first needed. They stay open, except those beyond a share of what a process may have."""

    def __init__(self, images: ImageSet) -> None:
        self._keep = images.pieces is not None
        self._most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4
        self._open: dict[bytes, int] = {}
        self._lock = threading.Lock()
        self.close = weakref.finalize(self, _close_all, self._open)

    @contextmanager
    def opened(self, path: bytes) -> Iterator[int]:
        """The descriptor of a file, as long as it is in use."""
        kept = self._open.get(path)
        if kept is not None:
            yield kept
            return
        descriptor = os.open(path, os.O_RDONLY)
        with self._lock:
            keep = self._keep and path not in self._open and len(self._open) < self._most
            if keep:
                self._open[path] = descriptor
        try:
            yield descriptor
        finally:
            if not keep:
                os.close(descriptor)


def _close_all(descriptors: dict[bytes, int]) -> None:
    while descriptors:
        os.close(descriptors.popitem()[1])


def mend_gray(image: Any) -> None:
    """Make the sampling factors of a gray JPEG (a writable buffer of bytes) 1 x 1, in place.

    With one component they mean nothing (ITU-T T.81, A.2.2: its blocks come row by row), and libjpeg passes over them. nvJPEG of CUDA 13
    orders the blocks by them: such images come out scrambled (seen on an H200; docs/gpu.md).
    """
    data = memoryview(image)
    place = _frame(data)
    if place is not None and data[place + 9] == 1:
        data[place + 11] = 0x11


def may_be_cut(image: Any) -> bool:
    """Whether bytes begin as a JPEG and do not end as one. A CPU's decoder refuses what has been cut short, a GPU's fills in gray."""
    data = memoryview(image)
    return len(data) > 3 and data[0] == 0xFF and data[1] == _START and (data[-2], data[-1]) != (0xFF, _END)


def _frame(data: memoryview) -> int | None:
    """Where the header of the frame begins, with its marker; None where there is no whole one before the first scan."""
    place = 2
    if len(data) < 4 or data[0] != 0xFF or data[1] != _START:
        return None
    while place + 12 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker in _FRAMES:
            return place
        if marker == 0xFF:  # filled up
            place += 1
        elif marker in _BARE:
            place += 2
        elif marker in (0xDA, _END):
            return None
        else:
            place += 2 + (data[place + 2] << 8 | data[place + 3])
    return None
