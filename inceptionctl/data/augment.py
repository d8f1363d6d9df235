"""From uniform numbers to the parameters of an augmented image: vectorised over a batch, numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Ten tries, as in torchvision's RandomResizedCrop (tf-slim allows 100). One try of the default ranges fits a 4:3 photograph
# 3 times out of 4, so about one image in a million falls back to the whole picture.
NUM_CANDIDATES = 10

# Fixed columns: a setting that is switched on or off leaves the draws of all others as they were.
_FLIPS = 4 * NUM_CANDIDATES
_COLOURS = _FLIPS + 2
NUM_UNIFORMS = _COLOURS + 4

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training image; by default tf-slim's fast mode with the crop of GoogLeNet (arXiv 1409.4842, 6)."""

    crop_area: tuple[float, float] = (0.08, 1.0)
    """Area of the crop as a share of the image's, drawn uniformly."""
    crop_aspect: tuple[float, float] = (0.75, 4 / 3)
    """Width over height of the crop; its logarithm is drawn uniformly, so that portrait and landscape are equally likely."""
    horizontal_flip: float = 0.5
    """Probability of a mirror image."""
    vertical_flip: float = 0.0
    """Probability of an upside-down image."""
    brightness: float = 0.125
    """Brightness factor from 1 - x to 1 + x."""
    contrast: float = 0.0
    """Contrast factor from 1 - x to 1 + x, about mid-grey."""
    saturation: float = 0.5
    """Saturation factor from 1 - x to 1 + x."""
    hue_degrees: float = 0.0
    """Hue is turned by up to this many degrees either way."""

    @property
    def colours(self) -> tuple[str, ...]:
        """The colour changes in use, by DALI's names and in its order."""
        widths = {
            "brightness": self.brightness,
            "contrast": self.contrast,
            "saturation": self.saturation,
            "hue": self.hue_degrees,
        }
        return tuple(name for name, width in widths.items() if width > 0.0)


def crop_candidates(augmentation: Augmentation, uniforms: Floats) -> Floats:
    """Crops to try, one after another, from uniforms [N, NUM_UNIFORMS]: float32 [N, NUM_CANDIDATES, 4].

    The last axis is (share of the area, width over height, u_y, u_x).
    """
    drawn = uniforms[:, :_FLIPS].reshape(len(uniforms), NUM_CANDIDATES, 4).copy()
    low, high = augmentation.crop_area
    drawn[..., 0] = low + (high - low) * drawn[..., 0]
    low, high = np.log(augmentation.crop_aspect)
    drawn[..., 1] = np.exp(low + (high - low) * drawn[..., 1])
    return drawn


def flips(augmentation: Augmentation, uniforms: Floats) -> list[NDArray[np.int32]]:
    """0 or 1 a sample, int32 [N], for the horizontal and then the vertical flip; one that is never wanted is left out."""
    chances = (augmentation.horizontal_flip, augmentation.vertical_flip)
    return [(uniforms[:, _FLIPS + i] < chance).astype(np.int32) for i, chance in enumerate(chances) if chance > 0.0]


def colour_changes(augmentation: Augmentation, uniforms: Floats) -> list[Floats]:
    """Brightness, contrast and saturation factors and hue degrees, float32 [N] each; those with no range are left out."""
    brightness, contrast, saturation, hue = (2.0 * uniforms[:, _COLOURS + i] - 1.0 for i in range(4))
    in_use: list[Floats] = []
    for centred, width, middle in (
        (brightness, augmentation.brightness, 1.0),
        (contrast, augmentation.contrast, 1.0),
        (saturation, augmentation.saturation, 1.0),
        (hue, augmentation.hue_degrees, 0.0),
    ):
        if width > 0.0:
            in_use.append((middle + width * centred).astype(np.float32))
    return in_use
