"""The last steps of an image on a CPU: resize, flip, colour, normalise; a batch ahead of whoever takes them.

DALI's operators for these take several times as long on a CPU as torch's 8-bit kernel and one compiled pass do.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.dlpack import from_dlpack

from inceptionctl.cores import single_threaded
from inceptionctl.data.cpu_colour import Changes, Recolouring, compiled
from inceptionctl.errors import InceptionctlError

Source = Iterator[tuple[Any, Any]]

_MAX_KEPT = 4  # batches: one with the caller, one that is being finished, and room for a caller who keeps another


class Finished:
    """Batches of a pipeline, finished: `dtype`, float32 or bfloat16, [N, px, px, 3] with their labels.

    `source` gives DALI's lists of (8-bit RGB images, labels); `resize` makes the images squares of `input_px`, bilinearly and
    without antialiasing, which they must be already without it. `changes` are those of each batch; None stops before them, to
    measure what comes first. Values are kept within `limits`, by channel.

    An image gets the same bits whatever the batch, the thread and the images around it. An error of the source comes in its turn.
    """

    def __init__(
        self,
        source: Source,
        changes: Iterator[Changes] | None,
        *,
        input_px: int,
        resize: bool,
        limits: Sequence[tuple[float, float]],
        num_threads: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._source, self._changes = source, changes
        self._input_px, self._resize, self._num_threads = input_px, resize, num_threads
        self._limits, self._dtype = limits, dtype
        self._buffers = _Buffers()
        self._pool = single_threaded(num_threads, "finishing")
        self._ready = self._pool.submit(compiled) if changes is not None else None  # while the first images are decoded
        self._begun: tuple[Tensor, Any, list[Future[None]]] | None = None
        self._end: BaseException | None = None

    def __next__(self) -> tuple[Tensor, Tensor]:
        """The next batch; the one after it is begun."""
        batch = self._begun or self._begin()
        self._begun = None
        try:
            self._begun = self._begin()
        except (StopIteration, InceptionctlError) as end:
            self._end = end
        pixels, labels, parts = batch
        for part in parts:
            part.result()
        return pixels, from_dlpack(labels.as_tensor())

    def _begin(self) -> tuple[Tensor, Any, list[Future[None]]]:
        if self._end is not None:
            end, self._end = self._end, StopIteration()
            raise end
        images, labels = next(self._source)
        changes = next(self._changes) if self._changes is not None else None
        pixels = self._buffers.take((len(images), self._input_px, self._input_px, 3), self._dtype)
        bits = pixels if self._dtype == torch.float32 else pixels.view(torch.uint16)  # numpy knows no bfloat16
        values = bits.view(len(pixels), self._input_px, -1).numpy()
        share = min(self._num_threads, len(images))
        parts = [range(first, len(images), share) for first in range(share)]
        return pixels, labels, [self._pool.submit(self._finish, images, changes, values, part) for part in parts]

    def _finish(self, images: Any, changes: Changes | None, values: NDArray[Any], part: range) -> None:
        recolour = None
        if self._ready is not None:
            self._ready.result()
            recolour = Recolouring(self._input_px, self._limits)
        size = (self._input_px, self._input_px)
        for i in part:
            # Images of 8 bits and three channels, one at a time: the kernels that work in whole numbers, in this thread alone.
            image = from_dlpack(images[i])[None].permute(0, 3, 1, 2)
            if self._resize:
                image = interpolate(image, size=size, mode="bilinear")
            if recolour is not None and changes is not None:
                recolour(image.permute(0, 2, 3, 1).reshape(self._input_px, -1).numpy(), changes, i, values[i])

    def close(self) -> None:
        """Stop; batches already handed out stay valid."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._begun, self._end = None, StopIteration()


class _Buffers:
    """Arrays for batches, used again once nobody holds what was handed out: new memory costs more than what is written into it."""

    def __init__(self) -> None:
        self._arrays: list[NDArray[np.uint8]] = []
        self._unheld = max(_holders([np.empty(0, dtype=np.uint8)]))

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor in an array that nobody else holds. A tensor of torch.from_numpy holds its array while its memory is in use."""
        num_bytes = math.prod(shape) * dtype.itemsize
        unheld = (i for i, holders in enumerate(_holders(self._arrays)) if holders <= self._unheld)
        place = next((i for i in unheld if self._arrays[i].size == num_bytes), None)
        if place is None:
            self._arrays = [*self._arrays[-_MAX_KEPT:], np.empty(num_bytes, dtype=np.uint8)]
            place = -1
        return torch.from_numpy(self._arrays[place]).view(dtype).view(shape)


def _holders(arrays: list[NDArray[np.uint8]]) -> list[int]:
    return [sys.getrefcount(array) for array in arrays]
