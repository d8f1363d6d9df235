"""Encoded images out of shards, read a few batches ahead by threads, so that training waits for a slow disk only."""

from __future__ import annotations

import os
import resource
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inceptionctl.data import reasons
from inceptionctl.data.imageset import CUT_SHORT, ImageSet, unreadable

Indices = NDArray[np.int64]
Encoded = NDArray[np.uint8]

NUM_THREADS = 4  # reading frees Python's lock and waits for the disk; more of them only help where the disk is far away
BATCHES_AHEAD = 4


class ReadAhead:
    """The images of (index, inputs) pairs, in the order of these: gives (index, encoded images, inputs).

    An image is read once and into memory of its own, which is handed on as it is. Raises DataError, in its turn, for an image that
    cannot be read whole.
    """

    def __init__(
        self,
        images: ImageSet,
        inputs: Iterator[tuple[Indices, Any]],
        num_threads: int = NUM_THREADS,
        batches_ahead: int = BATCHES_AHEAD,
    ) -> None:
        self._images = images
        self._inputs = inputs
        self._num_threads = num_threads
        self._batches_ahead = batches_ahead
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="read-ahead")
        self._files = _Files(images)
        self._waiting: deque[tuple[Indices, list[Future[list[Encoded]]], Any]] = deque()

    def __iter__(self) -> Iterator[tuple[Indices, list[Encoded], Any]]:
        """Itself: the inputs are used up once."""
        return self

    def __next__(self) -> tuple[Indices, list[Encoded], Any]:
        """The next batch; waits only if its images are not there yet."""
        while len(self._waiting) <= self._batches_ahead and self._submit_next():
            pass
        if not self._waiting:
            raise StopIteration
        index, parts, inputs = self._waiting.popleft()
        return index, [image for part in parts for image in part.result()], inputs

    def _submit_next(self) -> bool:
        following = next(self._inputs, None)
        if following is None:
            return False
        index, inputs = following
        parts = np.array_split(index, min(self._num_threads, len(index)))
        self._waiting.append((index, [self._pool.submit(self._read, part) for part in parts], inputs))
        return True

    def _read(self, index: Indices) -> list[Encoded]:
        shards, offsets, lengths = self._images.places(index)
        return [
            self._read_one(int(i), shard, offset, length)
            for i, shard, offset, length in zip(index, shards.tolist(), offsets.tolist(), lengths.tolist(), strict=True)
        ]

    def _read_one(self, i: int, shard: int, offset: int, length: int) -> Encoded:
        image = np.empty(length, dtype=np.uint8)
        try:
            with self._files.opened(shard) as descriptor:
                read = os.preadv(descriptor, [image.data], offset)
        except OSError as fault:
            raise unreadable(self._images.span(i), reasons.os_words(self._images.path(i), fault)) from fault
        if read < length:
            raise unreadable(self._images.span(i), CUT_SHORT)
        return image

    def close(self) -> None:
        """Stop reading and close the files."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._waiting.clear()
        self._files.close()


class _Files:
    """Descriptors of the shards, opened when first needed. They stay open, except those beyond a share of what a process may have."""

    def __init__(self, images: ImageSet) -> None:
        assert images.pieces is not None
        self._paths = [images.root / file for file in images.pieces.files]
        self._most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4
        self._open: dict[int, int] = {}
        self._lock = threading.Lock()
        self.close = weakref.finalize(self, _close_all, self._open)

    @contextmanager
    def opened(self, shard: int) -> Iterator[int]:
        """The descriptor of a shard, as long as it is in use."""
        with self._lock:
            kept = self._open.get(shard)
            if kept is None and len(self._open) < self._most:
                kept = self._open[shard] = os.open(self._paths[shard], os.O_RDONLY)
        if kept is not None:
            yield kept
            return
        descriptor = os.open(self._paths[shard], os.O_RDONLY)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def _close_all(descriptors: dict[int, int]) -> None:
    while descriptors:
        os.close(descriptors.popitem()[1])
