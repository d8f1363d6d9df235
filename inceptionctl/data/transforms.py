"""How an image becomes the network's input, in training and evaluation; and from uniform numbers to the parameters of an augmented
image, vectorised over a batch (colours: colour.py). Numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from inceptionctl.augmentations import Augmentation
from inceptionctl.data.mix import Mix

# As many as tf-slim tries, then it takes the whole image. One try of the default ranges fits a 4:3 photograph 3 times out of 4;
# the many are for panoramas. Fed all at once, since only the graph knows the image's size; that costs nothing measurable.
NUM_CANDIDATES = 100

# Fixed columns: a setting that is switched on or off leaves the draws of all others as they were. Room is left for new ones.
_FLIPS = 0
COLOURS = _FLIPS + 2
COLOUR_ORDER = COLOURS + 4
_FILTER = COLOUR_ORDER + 1
_CROPS = 16
NUM_UNIFORMS = _CROPS + 4 * NUM_CANDIDATES

Floats = NDArray[np.float32]
Triple = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """The recipe's evaluation keys with the network's input."""

    input_px: int
    """Side of the square input in pixels."""
    central_fraction: float
    """Share of each side that the central crop keeps; with `keep_aspect` the shorter side becomes input_px over this."""
    keep_aspect: bool
    """False: squashed to the square, as tf-slim. True: the aspect ratio is kept and the middle square taken, as timm."""
    interpolation: str
    """Resize filter."""
    antialias: bool
    """Whether the filter widens where the image shrinks, as Pillow's do."""
    mean: Triple
    """Subtracted from the R, G, B values in [0, 1]."""
    std: Triple
    """Divisor after that."""
    exif_orientation: bool
    """Whether a photograph is first turned upright as its EXIF data say."""

    def in_words(self) -> str:
        """One line for people: the crop and the filter."""
        filtered = f"{self.interpolation}{', antialiased' if self.antialias else ''}"
        filtered += "" if self.exif_orientation else ", EXIF orientation ignored"
        if self.keep_aspect:
            resized = f"resized with the shorter side to {self.input_px} / {self.central_fraction:g}"
            return f"one central crop of {self.input_px} px, {resized}, {filtered}"
        return f"one central crop of {self.central_fraction:g} of each side, {self.input_px} px, {filtered}"


@dataclass(frozen=True, kw_only=True)
class TrainTransforms:
    """How a training image becomes the network's input: the recipe's `data.augment`, and what it has in common with evaluations."""

    input_px: int
    """Side of the square input in pixels."""
    mean: Triple
    """Subtracted from the R, G, B values in [0, 1]."""
    std: Triple
    """Divisor after that."""
    exif_orientation: bool
    """Whether a photograph is first turned upright as its EXIF data say."""
    crop_area: tuple[float, float]
    """Area of the crop as a share of the image's, drawn uniformly."""
    crop_aspect: tuple[float, float]
    """Width over height of the crop; its logarithm is drawn uniformly, so that portrait and landscape are equally likely."""
    resize_filters: Sequence[str]
    """How the crop is resized (FILTERS of the training graph); where there are several, each image draws one."""
    horizontal_flip: float
    """Probability of a mirror image."""
    vertical_flip: float
    """Probability of an upside-down image."""
    brightness: float
    """Largest shift of all values either way, as a share of the full range."""
    contrast: float
    """Contrast factor from 1 - x to 1 + x, about the mean of each channel."""
    saturation: float
    """Saturation factor from 1 - x to 1 + x."""
    hue_degrees: float
    """Hue is turned by up to this many degrees either way."""
    color_order: str
    """`fixed` (brightness, saturation, hue, contrast), or `random`: each image draws one of tf-slim's four orders."""
    augmentations: Sequence[Augmentation] = ()
    """Changes between the resize and the flips, in this order."""
    mix: Mix | None = None
    """How pairs of finished images are mixed."""

    @property
    def has_colours(self) -> bool:
        """Whether any colour changes at all."""
        return max(self.brightness, self.contrast, self.saturation, self.hue_degrees) > 0.0

    def of_crop_alone(self) -> TrainTransforms:
        """The same, but that nothing is flipped and colours stay as they are."""
        plain = replace(self, brightness=0.0, contrast=0.0, saturation=0.0, hue_degrees=0.0)
        return replace(plain, horizontal_flip=0.0, vertical_flip=0.0)


def crop_candidates(transforms: TrainTransforms, uniforms: Floats) -> Floats:
    """Crops to try, one after another, from uniforms [N, NUM_UNIFORMS]: float32 [N, NUM_CANDIDATES, 4].

    The last axis is (share of the area, width over height, u_y, u_x).
    """
    drawn = uniforms[:, _CROPS:].reshape(len(uniforms), NUM_CANDIDATES, 4).copy()
    low, high = transforms.crop_area
    drawn[..., 0] = low + (high - low) * drawn[..., 0]
    low, high = np.log(transforms.crop_aspect)
    drawn[..., 1] = np.exp(low + (high - low) * drawn[..., 1])
    return drawn


def chosen_flips(transforms: TrainTransforms, uniforms: Floats) -> NDArray[np.bool_]:
    """Which samples are flipped horizontally, and which vertically: bool [N, 2]."""
    return uniforms[:, _FLIPS : _FLIPS + 2] < np.array([transforms.horizontal_flip, transforms.vertical_flip], np.float32)


def chosen_filters(transforms: TrainTransforms, uniforms: Floats) -> list[NDArray[np.int32]]:
    """Places in `resize_filters`, int32 [N]; nothing where there is no choice."""
    count = len(transforms.resize_filters)
    return [(uniforms[:, _FILTER] * np.float32(count)).astype(np.int32)] if count > 1 else []
