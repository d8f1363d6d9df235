"""TensorFlow's colour changes (tf.image.adjust_*) written down from their formulas, in numpy, on RGB in [0, 1].

Not clipped, as in tf-slim, where one clip comes at the very end.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]


def adjust_brightness(image: Doubles, delta: float) -> Doubles:
    return image + delta


def adjust_contrast(image: Doubles, factor: float) -> Doubles:
    mean = image.mean(axis=(0, 1))
    return (image - mean) * factor + mean


def adjust_saturation(image: Doubles, factor: float) -> Doubles:
    hue, saturation, value = to_hsv(image)
    return from_hsv(hue, np.clip(saturation * factor, 0.0, 1.0), value)


def adjust_hue(image: Doubles, delta: float) -> Doubles:
    """`delta` in parts of the circle."""
    hue, saturation, value = to_hsv(image)
    return from_hsv((hue + delta) % 1.0, saturation, value)


def to_hsv(image: Doubles) -> tuple[Doubles, Doubles, Doubles]:
    red, green, blue = np.moveaxis(image, -1, 0)
    value, chroma = image.max(axis=-1), np.ptp(image, axis=-1)
    some = np.where(chroma > 0, chroma, 1.0)
    sixth = np.select(
        [chroma == 0, value == red, value == green],
        [np.zeros_like(chroma), ((green - blue) / some) % 6.0, (blue - red) / some + 2.0],
        (red - green) / some + 4.0,
    )
    return sixth / 6.0, np.where(value > 0, chroma / np.where(value > 0, value, 1.0), 0.0), value


def from_hsv(hue: Doubles, saturation: Doubles, value: Doubles) -> Doubles:
    # Each channel is full within a sixth of its own hue, absent within a sixth of the opposite one, and a ramp between.
    distances = [np.abs((hue * 6.0 - at + 3.0) % 6.0 - 3.0) for at in (0.0, 2.0, 4.0)]
    shares = [np.clip(2.0 - distance, 0.0, 1.0) for distance in distances]
    return np.stack([value * (1.0 - saturation * (1.0 - share)) for share in shares], axis=-1)
