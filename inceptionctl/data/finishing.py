"""The last steps of an image on a CPU: resize, flip, colour, normalise; a batch ahead of whoever takes them.

DALI's operators for these take three times as long on a CPU as torch's 8-bit kernels and a product of matrices do.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import local
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.dlpack import from_dlpack

from inceptionctl.data.augment import Floats
from inceptionctl.errors import InceptionctlError

Changes = tuple[NDArray[np.bool_], Floats, Floats, Floats]
Source = Iterator[tuple[Any, Any]]

# A product of many pixels at once with a 3 x 3 matrix is slow; of 4 pixels in a row with the matrix 4 times on the diagonal it is
# not, though most of it are zeros. In pieces that stay in the core's own memory, and too small for the library to start threads.
_PIXELS_A_ROW, _ROWS_A_PIECE = 4, 256
_PIXELS_A_PIECE = _PIXELS_A_ROW * _ROWS_A_PIECE
_PIECES_AT_ONCE = 24

_MOST_KEPT = 4  # batches: one with the caller, one that is being finished, and room for a caller who keeps another


class Finished:
    """Batches of a pipeline, finished: float32 [N, px, px, 3] with their labels.

    `source` gives DALI's lists of (8-bit RGB images, labels); `resize` makes the images squares of `input_px`, bilinearly and
    without antialiasing, which they must be already without it. `changes` gives (flips, matrix, offset, of_mean) for each batch:
    bool [N, 2], horizontal and vertical, and what `colour.normalised` gives; None stops before them, to measure what comes first.
    Values are kept within `limits`, by channel.

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
    ) -> None:
        self._source, self._changes = source, changes
        self._input_px, self._resize, self._num_threads = input_px, resize, num_threads
        bounds = np.array(limits, dtype=np.float32)
        # One number for all channels is several times as quick as numbers in turn.
        same = (bounds == bounds[0]).all()
        self._bounds = bounds[0] if same else np.tile(bounds, (_PIXELS_A_PIECE * _PIECES_AT_ONCE, 1)).T.copy()
        self._buffers = _Buffers()
        self._scratch = local()
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="finishing")
        self._begun: tuple[Floats, Any, list[Future[None]]] | None = None
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
        return torch.from_numpy(pixels), from_dlpack(labels.as_tensor())

    def _begin(self) -> tuple[Floats, Any, list[Future[None]]]:
        if self._end is not None:
            end, self._end = self._end, StopIteration()
            raise end
        images, labels = next(self._source)
        changes = next(self._changes) if self._changes is not None else None
        pixels = self._buffers.take((len(images), self._input_px, self._input_px, 3))
        share = min(self._num_threads, len(images))
        parts = [range(first, len(images), share) for first in range(share)]
        return pixels, labels, [self._pool.submit(self._finish, images, changes, pixels, part) for part in parts]

    def _finish(self, images: Any, changes: Changes | None, pixels: Floats, part: range) -> None:
        for i in part:
            # Images of 8 bits and three channels, one at a time: the kernels that work in whole numbers, in this thread alone.
            image = from_dlpack(images[i])[None].permute(0, 3, 1, 2)
            if self._resize:
                image = interpolate(image, size=(self._input_px, self._input_px), mode="bilinear")
            if changes is not None:
                flips, matrix, offset, of_mean = changes
                image = torch.flip(image, [axis for axis, wanted in zip((3, 2), flips[i], strict=True) if wanted])
                self._recolour(image[0].permute(1, 2, 0).numpy(), matrix[i], offset[i], of_mean[i], pixels[i])

    def _recolour(self, image: NDArray[np.uint8], matrix: Floats, offset: Floats, of_mean: Floats, out: Floats) -> None:
        """matrix x + of_mean m + offset for each pixel x of an image with the mean m, within the limits, into `out`."""
        if of_mean.any():
            # Whole numbers: the sum is exact, in whatever order it is made.
            total = image.reshape(len(image), -1).sum(axis=0, dtype=np.uint32).reshape(-1, 3).sum(axis=0, dtype=np.uint64)
            offset = (offset + of_mean.astype(np.float64) @ (total / (image.size // 3))).astype(np.float32)
        taken, made = self._scratch_floats()
        diagonal, shift = _diagonal(matrix), np.tile(offset, _ROWS_A_PIECE)
        values, finished = image.reshape(-1), out.reshape(-1)
        width = 3 * _PIXELS_A_ROW
        for start in range(0, image.size, taken.size):
            count = min(taken.size, image.size - start)
            np.copyto(taken[:count], values[start : start + count])
            np.matmul(taken.reshape(-1, _ROWS_A_PIECE, width), diagonal, out=made.reshape(-1, _ROWS_A_PIECE, width))
            rows = made.reshape(-1, len(shift))
            np.add(rows, shift, out=rows)
            low, high = self._bounds if self._bounds.ndim == 1 else self._bounds[:, :count]
            np.clip(made[:count], low, high, out=finished[start : start + count])

    def _scratch_floats(self) -> tuple[Floats, Floats]:
        """Memory of this thread, twice."""
        kept: tuple[Floats, Floats] | None = getattr(self._scratch, "kept", None)
        if kept is None:
            size = 3 * _PIXELS_A_PIECE * _PIECES_AT_ONCE
            kept = self._scratch.kept = (np.zeros(size, dtype=np.float32), np.empty(size, dtype=np.float32))
        return kept

    def close(self) -> None:
        """Stop; batches already handed out stay valid."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._begun, self._end = None, StopIteration()


def _diagonal(matrix: Floats) -> Floats:
    """What a row of pixels, one after another, is multiplied with so that each is multiplied with `matrix` from the left."""
    blocks = np.zeros((_PIXELS_A_ROW, 3, _PIXELS_A_ROW, 3), dtype=np.float32)
    places = np.arange(_PIXELS_A_ROW)
    blocks[places, :, places, :] = matrix.T
    return blocks.reshape(3 * _PIXELS_A_ROW, 3 * _PIXELS_A_ROW)


class _Buffers:
    """Arrays for batches, used again once nobody holds what was handed out: new memory costs more than what is written into it."""

    def __init__(self) -> None:
        self._arrays: list[Floats] = []
        self._unheld = max(_holders([np.empty(0, dtype=np.float32)]))

    def take(self, shape: tuple[int, ...]) -> Floats:
        """An array that nobody else holds. A tensor of torch.from_numpy holds its array for as long as its memory is in use."""
        for place, holders in enumerate(_holders(self._arrays)):
            if holders <= self._unheld and self._arrays[place].shape == shape:
                return self._arrays[place]
        self._arrays = [*self._arrays[-_MOST_KEPT:], np.empty(shape, dtype=np.float32)]
        return self._arrays[-1]


def _holders(arrays: list[Floats]) -> list[int]:
    return [sys.getrefcount(array) for array in arrays]
