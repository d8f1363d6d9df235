"""Flips, colours and normalisation of 8-bit images on a CPU: one pass over each image, compiled by numba for this processor.

Products and sums are rounded to float32 one by one, in an order that is written down: the same bits on any processor, however many
pixels it takes at once. So nothing here may be fused or reordered (numba's `fastmath`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inceptionctl.data.transforms import Floats
from inceptionctl.jit import COMPILING, OPTIONS, import_numba

Bytes = NDArray[np.uint8]


class Changes:
    """What a batch of N images goes through, worked out for all of them at once.

    `flips` is bool [N, 2], horizontal and vertical; `matrix` [N, 3, 3], `offset` [N, 3] and `of_mean` [N, 3, 3] are what
    `colour.normalised` gives.
    """

    def __init__(self, flips: NDArray[np.bool_], matrix: Floats, offset: Floats, of_mean: Floats) -> None:
        self.flips = flips.tolist()
        # A mirrored image is read from its last byte to its first, and so B comes first.
        self.matrix = np.where(flips[:, :1, None], matrix[:, :, ::-1], matrix)
        self.offset, self.of_mean = offset.astype(np.float64), of_mean.astype(np.float64) if of_mean.any() else None


class Recolouring:
    """matrix x + of_mean m + offset for each pixel x of an image with the mean m, within the limits, flipped.

    Holds memory for images of `input_px` squared, of one thread.
    """

    def __init__(self, input_px: int, limits: Sequence[tuple[float, float]]) -> None:
        self._recolour, self._sum_up = compiled()
        self._limits = np.array(limits, dtype=np.float32)
        self._turned = np.empty(3 * input_px, dtype=np.uint8)
        self._row = np.empty((1, 3 * input_px), dtype=np.float32)
        self._no_halves = np.empty((0, 0), dtype=np.uint16)
        self._sums = np.empty(3, dtype=np.int64)

    def __call__(self, image: Bytes, changes: Changes, i: int, out: NDArray[Any]) -> None:
        """The i-th of the changes. `image` is [px, 3 * px]; `out` too, float32, or uint16 for the bits of bfloat16."""
        shift = changes.offset[i]
        if changes.of_mean is not None:
            self._sum_up(image, self._sums)
            shift = shift + (changes.of_mean[i] * (self._sums * (3 / image.size))).sum(axis=1)
        floats, halves = (self._row, out) if out.dtype == np.uint16 else (out, self._no_halves)
        scratch = (self._limits, self._turned, floats, halves)
        self._recolour(image, *changes.flips[i], changes.matrix[i], shift.astype(np.float32), *scratch)


def compiled() -> tuple[Callable[..., None], Callable[..., None]]:
    """`_recolour` and `_sum_up` in machine code: a second of processor time, the first time in a process."""
    with COMPILING:
        return _compiled()


@cache
def _compiled() -> tuple[Callable[..., None], Callable[..., None]]:
    numba = import_numba("colours images")
    kinds = numba.types
    image, floats, halves = (kinds.Array(kind, 2, "C") for kind in (kinds.uint8, kinds.float32, kinds.uint16))
    scratch = (kinds.Array(kinds.uint8, 1, "C"), floats, halves)
    recolour = kinds.void(image, kinds.boolean, kinds.boolean, floats, kinds.Array(kinds.float32, 1, "C"), floats, *scratch)
    sum_up = kinds.void(image, kinds.Array(kinds.int64, 1, "C"))
    return numba.njit(recolour, **OPTIONS)(_recolour), numba.njit(sum_up, **OPTIONS)(_sum_up)


def _recolour(
    image: Any,
    mirrored: bool,
    upside_down: bool,
    matrix: Any,
    shift: Any,
    limits: Any,
    turned: Any,
    floats: Any,
    halves: Any,
) -> None:
    """One image; `floats` are its rows, or, where the result goes to `halves`, room for one of them."""
    # In loops over a row whose places cannot be negative, without min and max, which would have to mind NaN: of such loops LLVM
    # makes vectors. R, G and B are 0, 1 and 2.
    height, num_values = image.shape
    end = np.uintp(num_values)
    m00, m01, m02 = matrix[0, 0], matrix[0, 1], matrix[0, 2]
    m10, m11, m12 = matrix[1, 0], matrix[1, 1], matrix[1, 2]
    m20, m21, m22 = matrix[2, 0], matrix[2, 1], matrix[2, 2]
    shift0, shift1, shift2 = shift[0], shift[1], shift[2]
    low0, low1, low2 = limits[0, 0], limits[1, 0], limits[2, 0]
    high0, high1, high2 = limits[0, 1], limits[1, 1], limits[2, 1]
    for y in range(height):
        row = image[height - 1 - y if upside_down else y]
        if mirrored:
            for x in range(end):
                turned[x] = row[end - np.uintp(1) - x]
            row = turned
        made = floats[y % len(floats)]
        for x in range(num_values // 3):
            x0, x1, x2 = np.float32(row[3 * x]), np.float32(row[3 * x + 1]), np.float32(row[3 * x + 2])
            # The outer two first: their sum is the same to the bit whichever of them is R.
            y0 = (m00 * x0 + m02 * x2) + m01 * x1 + shift0
            y1 = (m10 * x0 + m12 * x2) + m11 * x1 + shift1
            y2 = (m20 * x0 + m22 * x2) + m21 * x1 + shift2
            y0 = y0 if y0 > low0 else low0
            y1 = y1 if y1 > low1 else low1
            y2 = y2 if y2 > low2 else low2
            made[3 * x] = y0 if y0 < high0 else high0
            made[3 * x + 1] = y1 if y1 < high1 else high1
            made[3 * x + 2] = y2 if y2 < high2 else high2
        if len(halves) > 0:
            bits, half = made.view(np.uint32), halves[y]
            for x in range(num_values):
                # The upper half of a float32, rounded to nearest, ties to even.
                half[x] = (bits[x] + ((bits[x] >> np.uint32(16)) & np.uint32(1)) + np.uint32(0x7FFF)) >> np.uint32(16)


def _sum_up(image: Any, sums: Any) -> None:
    """Of each channel, exact whatever the order."""
    sum0 = sum1 = sum2 = np.int64(0)
    for y in range(len(image)):
        row = image[y]
        for x in range(len(row) // 3):
            sum0 += np.int64(row[3 * x])
            sum1 += np.int64(row[3 * x + 1])
            sum2 += np.int64(row[3 * x + 2])
    sums[0], sums[1], sums[2] = sum0, sum1, sum2
