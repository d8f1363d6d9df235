"""Colours and normalisation of 8-bit images on a CPU: one product of matrices, one sum and one clamp over each image.

Every step takes a whole image in one call. Smaller pieces would stay in a core's own memory, but cost more of Python's time than
that is worth.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inceptionctl.data.augment import Floats

# A product of many pixels at once with a 3 x 3 matrix is slow; of 4 pixels in a row with the matrix 4 times on the diagonal it is
# not, though most of it are zeros. In pieces that are too small for the library to start threads.
_PIXELS_A_ROW, _ROWS_A_PIECE = 4, 256
_VALUES_A_PIECE = 3 * _PIXELS_A_ROW * _ROWS_A_PIECE
_PIXELS_A_SHIFT = 256  # what is added to a pixel, as often as makes a long row; a whole number of them fills a piece


class Changes:
    """What a batch of N images goes through, worked out for all of them at once.

    `flips` is bool [N, 2], horizontal and vertical; `matrix` [N, 3, 3], `offset` [N, 3] and `of_mean` [N, 3, 3] are what
    `colour.normalised` gives.
    """

    def __init__(self, flips: NDArray[np.bool_], matrix: Floats, offset: Floats, of_mean: Floats) -> None:
        self.axes = [[axis for axis, wanted in zip((3, 2), flip, strict=True) if wanted] for flip in flips.tolist()]
        """Of NCHW, for each image those that are flipped."""
        blocks = np.zeros((len(matrix), _PIXELS_A_ROW, 3, _PIXELS_A_ROW, 3), dtype=np.float32)
        places = np.arange(_PIXELS_A_ROW)
        blocks[:, places, :, places, :] = matrix.transpose(0, 2, 1)
        self.diagonal = blocks.reshape(-1, 3 * _PIXELS_A_ROW, 3 * _PIXELS_A_ROW)
        """What a row of pixels, one after another, is multiplied with so that each is multiplied with `matrix` from the left."""
        self.offset = offset.astype(np.float64)
        self.of_mean = of_mean.astype(np.float64) if of_mean.any() else None


class Recolouring:
    """Memory of one thread, and the views of it that the steps want: making them anew for each image costs time too."""

    def __init__(self, input_px: int, limits: Sequence[tuple[float, float]]) -> None:
        self._num_pixels = input_px**2
        count = 3 * self._num_pixels
        # Whole pieces; zeros where an image does not fill the last one.
        before, after = torch.zeros(2, -(-count // _VALUES_A_PIECE) * _VALUES_A_PIECE)
        self._image = before[:count].view(1, input_px, input_px, 3).permute(0, 3, 1, 2)
        self._sums = before.numpy().reshape(-1, _VALUES_A_PIECE)
        rows = (-1, _ROWS_A_PIECE, 3 * _PIXELS_A_ROW)
        self._taken, self._made = before.numpy().reshape(rows), after.numpy().reshape(rows)
        self._values, self._rows = after[:count], after.view(-1, 3 * _PIXELS_A_SHIFT)
        self._shift = np.zeros((_PIXELS_A_SHIFT, 3), dtype=np.float32)
        self._added = torch.from_numpy(self._shift).view(-1)
        self._ones = np.ones(_VALUES_A_PIECE // 3)
        self._one_limit = limits[0] if len(set(limits)) == 1 else None
        self._low, self._high = (torch.tensor(bounds).repeat(_PIXELS_A_SHIFT) for bounds in zip(*limits, strict=True))

    def __call__(self, image: Tensor, changes: Changes, i: int, out: Tensor) -> None:
        """matrix x + of_mean m + offset for each pixel x of an image with the mean m, within the limits, into `out`.

        `image` is uint8 [1, 3, px, px] in channels_last, `out` float32 or bfloat16 [px * px * 3]; the i-th of the changes.
        """
        if changes.axes[i]:
            image = torch.flip(image, changes.axes[i])
        self._image.copy_(image)
        shift = changes.offset[i]
        self._shift[:] = shift if changes.of_mean is None else shift + changes.of_mean[i] @ self._mean()
        np.matmul(self._taken, changes.diagonal[i], out=self._made)
        self._rows.add_(self._added)
        if self._one_limit and out.dtype == self._values.dtype:
            torch.clamp(self._values, *self._one_limit, out=out)
        else:
            torch.clamp(self._rows, self._low, self._high, out=self._rows)
            out.copy_(self._values)

    def _mean(self) -> NDArray[np.float64]:
        # Sums of whole numbers: exact, in whatever order they are made.
        sums = np.add.reduce(self._sums, axis=0)
        means: NDArray[np.float64] = self._ones @ sums.reshape(-1, 3) / self._num_pixels
        return means
