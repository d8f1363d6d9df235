"""Brightness, contrast, saturation and hue of a whole order as one affine map of RGB an image: numpy only.

Each change is affine in the image's RGB values x and in their mean m over the image, and none is clipped before the last
(as in tf-slim). So any order of them is y = A x + B m + c, which the graph applies in one pass over the pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from inceptionctl.data.transforms import COLOUR_ORDER, COLOURS, Floats, TrainTransforms

Doubles = NDArray[np.float64]
Change = Literal["brightness", "contrast", "saturation", "hue"]

CHANGES: tuple[Change, ...] = ("brightness", "contrast", "saturation", "hue")
# tf-slim's `distort_color`; the first is also the fixed order, and without hue and contrast it is the fast mode.
ORDERS: tuple[tuple[Change, ...], ...] = (
    ("brightness", "saturation", "hue", "contrast"),
    ("saturation", "brightness", "contrast", "hue"),
    ("contrast", "hue", "brightness", "saturation"),
    ("hue", "saturation", "contrast", "brightness"),
)

# Luma of ITU-R BT.601: saturation 0 leaves it alone.
_LUMA = np.array([0.299, 0.587, 0.114])
# The turn about the gray axis by 90 degrees, but for the part along the axis (Rodrigues' formula).
_ACROSS = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / np.sqrt(3.0)
_ALONG = np.full((3, 3), 1.0 / 3.0)


@dataclass(frozen=True)
class ColourMaps:
    """y = matrix x + of_mean m + offset for each of N images, with x, y and the image's mean m in RGB."""

    matrix: Doubles
    """[N, 3, 3]."""
    of_mean: Doubles
    """[N, 3, 3]; zero without contrast."""
    offset: Doubles
    """[N, 3]."""


def drawn_changes(transforms: TrainTransforms, uniforms: Floats) -> dict[Change, Doubles]:
    """float64 [N] each: brightness shifts (of the full range), contrast and saturation factors, hue degrees."""
    centred = {name: 2.0 * uniforms[:, COLOURS + i].astype(np.float64) - 1.0 for i, name in enumerate(CHANGES)}
    return {
        "brightness": transforms.brightness * centred["brightness"],
        "contrast": 1.0 + transforms.contrast * centred["contrast"],
        "saturation": 1.0 + transforms.saturation * centred["saturation"],
        "hue": transforms.hue_degrees * centred["hue"],
    }


def drawn_orders(transforms: TrainTransforms, uniforms: Floats) -> NDArray[np.int64]:
    """Places in ORDERS, int64 [N]; all 0 where the order is fixed."""
    if transforms.color_order == "fixed":
        return np.zeros(len(uniforms), dtype=np.int64)
    return (uniforms[:, COLOUR_ORDER] * np.float32(len(ORDERS))).astype(np.int64)


def colour_maps(transforms: TrainTransforms, uniforms: Floats) -> ColourMaps:
    """The maps of RGB values in [0, 1] for uniforms [N, NUM_UNIFORMS]."""
    changes, orders = drawn_changes(transforms, uniforms), drawn_orders(transforms, uniforms)
    count = len(uniforms)
    maps = ColourMaps(np.empty((count, 3, 3)), np.empty((count, 3, 3)), np.empty((count, 3)))
    for place in np.unique(orders):
        rows = orders == place
        part = compose(ORDERS[place], {name: values[rows] for name, values in changes.items()})
        maps.matrix[rows], maps.of_mean[rows], maps.offset[rows] = part.matrix, part.of_mean, part.offset
    return maps


def compose(order: Sequence[Change], changes: dict[Change, Doubles]) -> ColourMaps:
    """The map of changes one after another, by values float64 [N] as `drawn_changes` gives them."""
    count = len(changes["brightness"])
    matrix, of_mean, offset = np.tile(np.eye(3), (count, 1, 1)), np.zeros((count, 3, 3)), np.zeros((count, 3))
    for name in order:
        values = changes[name]
        if name == "brightness":
            offset = offset + values[:, None]
        elif name == "contrast":
            # About the mean of the image as it is by now, which is (matrix + of_mean) m + offset.
            factor = values[:, None, None]
            matrix, of_mean = factor * matrix, factor * of_mean + (1.0 - factor) * (matrix + of_mean)
        else:
            step = _saturation(values) if name == "saturation" else _hue(values)
            matrix, of_mean, offset = _times(step, matrix), _times(step, of_mean), _times(step, offset[:, :, None])[:, :, 0]
    return ColourMaps(matrix, of_mean, offset)


def normalised(maps: ColourMaps, mean: Sequence[float], std: Sequence[float]) -> tuple[Floats, Floats, Floats]:
    """(matrix, offset, of_mean) in float32, from RGB values in 0..255 to (value in [0, 1] - mean) / std."""
    scale = 1.0 / (255.0 * np.asarray(std))[:, None]
    offset = (maps.offset - np.asarray(mean)) / np.asarray(std)
    parts = (maps.matrix * scale, offset, maps.of_mean * scale)
    matrix, shift, of_mean = (part.astype(np.float32) for part in parts)
    return matrix, shift, of_mean


def limits(mean: Sequence[float], std: Sequence[float]) -> list[tuple[float, float]]:
    """What 0 and 1 become, for each channel."""
    return [((0.0 - m) / s, (1.0 - m) / s) for m, s in zip(mean, std, strict=True)]


def _saturation(factors: Doubles) -> Doubles:
    gray = np.tile(_LUMA, (3, 1))
    matrices: Doubles = gray + factors[:, None, None] * (np.eye(3) - gray)
    return matrices


def _hue(degrees: Doubles) -> Doubles:
    # About the gray axis of RGB: half as far from a turn in HSV as one in YIQ, which most libraries take (docs/recipes.md).
    # This way round red turns towards yellow for positive degrees, as in HSV.
    cos, sin = (function(np.radians(degrees))[:, None, None] for function in (np.cos, np.sin))
    matrices: Doubles = cos * np.eye(3) + sin * _ACROSS + (1.0 - cos) * _ALONG
    return matrices


def _times(left: Doubles, right: Doubles) -> Doubles:
    # Sums of elementwise products: what one image gets must not depend on how many are multiplied at once, to the bit.
    product: Doubles = sum(left[:, :, i, None] * right[:, i, None, :] for i in range(3))  # type: ignore[assignment]
    return product
