"""Resizing in numpy and Pillow, written from the formulas: what the graphs' filters are checked against."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
Doubles = NDArray[np.float64]

PILLOW = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def _cubic(x: Doubles) -> Doubles:
    """Keys' cubic with a = -0.5."""
    x = np.abs(x)
    return np.where(x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x < 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0.0))


KERNELS: dict[str, tuple[Callable[[Doubles], Doubles], int]] = {
    "bilinear": (lambda x: np.maximum(0.0, 1.0 - np.abs(x)), 1),
    "bicubic": (_cubic, 2),
    "lanczos": (lambda x: np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0), 3),
}


def weights(length: int, resized: int, name: str, antialias: bool) -> Doubles:
    """[resized, length]: pixel centres at halves, the edge pixels repeated outwards."""
    scale = length / resized
    matrix = np.zeros((resized, length))
    for i in range(resized):
        centre = (i + 0.5) * scale
        if name == "nearest":
            matrix[i, min(int(centre), length - 1)] = 1.0
            continue
        kernel, support = KERNELS[name]
        stretch = max(scale, 1.0) if antialias else 1.0
        near = np.arange(math.floor(centre - support * stretch) - 1, math.ceil(centre + support * stretch) + 2)
        shares = kernel((near + 0.5 - centre) / stretch)
        np.add.at(matrix[i], np.clip(near, 0, length - 1), shares / shares.sum())
    return matrix


def box_weights(length: int, resized: int) -> Doubles:
    """[resized, length]: the mean of what each new pixel covers, as TensorFlow's resize_area."""
    edges = np.arange(resized + 1) * length / resized
    pixels = np.arange(length)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    covered = np.maximum(covered, 0.0)
    return covered / covered.sum(axis=1, keepdims=True)


def applied(pixels: Pixels, rows: Doubles, columns: Doubles) -> Doubles:
    """Weights for both axes applied to [height, width, 3]; within 0..255."""
    resized = np.einsum("oh,hwc,pw->opc", rows, pixels.astype(np.float64), columns, optimize=True)
    return np.clip(resized, 0.0, 255.0)


def resampled(pixels: Pixels, side: int, name: str, *, antialias: bool = False) -> Doubles:
    """The whole picture squashed to a square."""
    height, width = pixels.shape[:2]
    return applied(pixels, weights(height, side, name, antialias), weights(width, side, name, antialias))


def boxed(pixels: Pixels, side: int) -> Doubles:
    """The whole picture squashed to a square by averaging."""
    return applied(pixels, box_weights(pixels.shape[0], side), box_weights(pixels.shape[1], side))


def resized_sides(height: int, width: int, shorter: int) -> tuple[int, int]:
    """torchvision's Resize(shorter): the longer side rounded down."""
    if width <= height:
        return int(shorter * height / width), shorter
    return shorter, int(shorter * width / height)


def middle(height: int, width: int, side: int) -> tuple[int, int]:
    """torchvision's CenterCrop(side): (top, left), halves rounded to even."""
    return round((height - side) / 2.0), round((width - side) / 2.0)


def middle_square(pixels: Pixels, side: int, fraction: float, name: str, *, antialias: bool) -> Doubles:
    """timm's evaluation by the formula: shorter side to floor(side / fraction), then the square in the middle."""
    height, width = pixels.shape[:2]
    new_height, new_width = resized_sides(height, width, math.floor(side / fraction))
    top, left = middle(new_height, new_width, side)
    rows, columns = weights(height, new_height, name, antialias), weights(width, new_width, name, antialias)
    return applied(pixels, rows[top : top + side], columns[left : left + side])


def middle_square_by_pillow(pixels: Pixels, side: int, fraction: float, name: str) -> Pixels:
    """The same by Pillow, which timm calls; it antialiases always, and rounds to 8 bits between the two axes too."""
    height, width = pixels.shape[:2]
    new_height, new_width = resized_sides(height, width, math.floor(side / fraction))
    top, left = middle(new_height, new_width, side)
    resized = Image.fromarray(pixels).resize((new_width, new_height), PILLOW[name])
    return np.asarray(resized)[top : top + side, left : left + side]
