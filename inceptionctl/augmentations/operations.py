"""The operations of AutoAugment and its kin on 8-bit images: numbers from magnitudes (numpy), and the DALI nodes that apply them.

Each is Pillow's, as in AutoAugment's own code, with its filter for warps: the nearest pixel, which takes a CPU a tenth of the time of a
bilinear one. `equalize` is OpenCV's (DALI has no other), and `sharpness` filters the outermost pixels too, mirrored at the edge,
where Pillow leaves them alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]

# What the graph tells apart. The many operations are a few kinds of arithmetic.
_WARP, _BRIGHTNESS, _COLOR, _CONTRAST, _POSTERIZE, _SOLARIZE, _EQUALIZE, _AUTOCONTRAST, _SHARPNESS = range(1, 10)
NUM_NUMBERS = 9

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow's mode L
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13.0  # Pillow's ImageFilter.SMOOTH
_SAME = np.zeros((3, 3)) + np.diag([0.0, 1.0, 0.0])

Numbers = Callable[[Doubles, int], Doubles]
"""From values [N] and the side in pixels to numbers [N, up to NUM_NUMBERS]."""


def _warp(m: Doubles, place: int) -> Doubles:
    matrix = np.tile(np.array([1.0, 0.0, 0.0, 0.0, 1.0, 0.0]), (len(m), 1))
    matrix[:, place] = m
    return matrix


def rotation(degrees: Doubles, px: int) -> Doubles:
    """From destination to source about the centre: counterclockwise for positive degrees."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    half = px / 2
    return np.stack([cos, -sin, half - half * cos + half * sin, sin, cos, half - half * sin - half * cos], axis=1)


def _color(v: Doubles, px: int) -> Doubles:
    gray = np.tile(LUMA, (3, 1))
    matrices: Doubles = gray + v[:, None, None] * (np.eye(3) - gray)
    return matrices.reshape(-1, 9)


def _sharpness(v: Doubles, px: int) -> Doubles:
    kernels: Doubles = v[:, None, None] * _SAME + (1.0 - v)[:, None, None] * _SMOOTH
    return kernels.reshape(-1, 9)


def _nothing(v: Doubles, px: int) -> Doubles:
    return np.zeros((len(v), 1))


OPERATIONS: dict[str, tuple[int, Numbers]] = {
    "identity": (0, _nothing),
    "shear_x": (_WARP, lambda v, px: _warp(v, 1)),
    "shear_y": (_WARP, lambda v, px: _warp(v, 3)),
    "translate_x": (_WARP, lambda v, px: _warp(-v * px, 2)),
    "translate_y": (_WARP, lambda v, px: _warp(-v * px, 5)),
    "rotate": (_WARP, rotation),
    "brightness": (_BRIGHTNESS, lambda v, px: v[:, None]),
    "color": (_COLOR, _color),
    "contrast": (_CONTRAST, lambda v, px: v[:, None]),
    "sharpness": (_SHARPNESS, _sharpness),
    "posterize": (_POSTERIZE, lambda v, px: 256.0 - 2.0 ** (8.0 - v[:, None])),
    "solarize": (_SOLARIZE, lambda v, px: v[:, None]),
    "autocontrast": (_AUTOCONTRAST, _nothing),
    "equalize": (_EQUALIZE, _nothing),
    "invert": (_SOLARIZE, _nothing),
}
"""By name: the kind, and its numbers from values. A value is the tangent of a shear, a translation as a fraction of the side (to the right
or down), degrees counterclockwise, an enhancement factor of Pillow's ImageEnhance (1 changes nothing), bits to keep, or the first level that
`solarize` inverts (0 to 256)."""
NAMES = tuple(OPERATIONS)


def numbered(operations: NDArray[np.int64], values: Doubles, input_px: int) -> tuple[NDArray[np.int32], Floats]:
    """For N images, places in NAMES and values [N] as (kind, int32 [N], and numbers, float32 [N, NUM_NUMBERS]), which `operate` takes."""
    kinds, numbers = np.zeros(len(operations), np.int32), np.zeros((len(operations), NUM_NUMBERS), np.float32)
    for place in np.unique(operations):
        rows = operations == place
        kind, numbers_of = OPERATIONS[NAMES[place]]
        made = numbers_of(values[rows], input_px)
        kinds[rows] = kind
        numbers[rows, : made.shape[1]] = made
    return kinds, numbers


def operate(image: Any, kind: Any, numbers: Any, fill: float) -> Any:
    """One operation on each image, uint8 HWC; pixels from beyond the edge have the level `fill`. In a graph with conditionals."""
    from nvidia.dali import fn, types

    # Statements one inside the other: of elif and of expressions DALI's conditionals know nothing.
    if kind != 0:
        if kind == _WARP:
            matrix = fn.reshape(numbers[:6], shape=[2, 3])
            image = fn.warp_affine(image, matrix=matrix, fill_value=fill, interp_type=types.INTERP_NN)
        else:
            if kind == _BRIGHTNESS:
                image = fn.brightness(image, brightness=numbers[0])
            else:
                if kind == _COLOR:
                    image = fn.coord_transform(image, M=fn.reshape(numbers, shape=[3, 3]), dtype=types.UINT8)
                else:
                    image = _by_histogram(image, kind, numbers.gpu() if image.device == "gpu" else numbers)
    return image


def _by_histogram(image: Any, kind: Any, numbers: Any) -> Any:
    from nvidia.dali import fn, math, types

    if kind == _EQUALIZE:
        image = fn.equalize(image)
    else:
        if kind == _AUTOCONTRAST:
            low, high = (f(image, axes=[0, 1], keep_dims=True) for f in (fn.reductions.min, fn.reductions.max))
            low, high = (fn.cast(level, dtype=types.FLOAT) for level in (low, high))
            flat = fn.cast(low == high, dtype=types.FLOAT)
            # Pillow rounds down; a channel of one level stays as it is.
            spread = (255.0 - 254.0 * flat) / (high - low + flat)
            image = fn.normalize(
                image, mean=low - low * flat, stddev=1.0 / spread, shift=-0.499, axes=[0, 1], dtype=types.UINT8
            )
        else:
            if kind == _CONTRAST:
                mean = fn.reductions.mean(image, axes=[0, 1], keep_dims=True)
                gray = math.floor(fn.coord_transform(mean, M=np.tile(LUMA, (3, 1)).ravel().tolist()) + 0.5)
                spread = 1.0 / numbers[0] + 0.0 * gray  # of the same shape
                image = fn.normalize(image, mean=gray - gray * spread, stddev=spread, axes=[0, 1], dtype=types.UINT8)
            else:
                image = _by_level(image, kind, numbers)
    return image


def _by_level(image: Any, kind: Any, numbers: Any) -> Any:
    from nvidia.dali import fn, types

    if kind == _SHARPNESS:
        image = fn.filter(image, fn.reshape(numbers, shape=[3, 3]))
    else:
        level = numbers[0]
        if kind == _POSTERIZE:
            image = image & fn.cast(level, dtype=types.UINT8)
        else:
            image = image ^ (fn.cast(image >= level, dtype=types.UINT8) * types.Constant(255).uint8())
    return image
