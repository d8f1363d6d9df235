"""Random erasing (Zhong et al. 2017, algorithm 1; Cutout is the same with a square)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field, model_validator

from inceptionctl.augmentations.base import Augmentation, Floats, Parameter
from inceptionctl.section import Probability

_TRIES = 10  # as in timm; nine out of ten of the default ranges fit at the first

Level = Annotated[float, Field(ge=0.0, le=1.0)]


class RandomErasing(Augmentation):
    """Fills a random rectangle of some images with one color."""

    ORDER = 900
    NUM_UNIFORMS = 1 + 4 * _TRIES

    probability: Probability = 0.0
    """Probability that an image loses a rectangle; 0 switches it off (timm's recipes: 0.25)."""
    area: Annotated[tuple[float, float], Field(strict=False)] = (0.02, 0.3333333333333333)
    """Area of the rectangle as a fraction of the image's, drawn uniformly."""
    aspect: Annotated[tuple[float, float], Field(strict=False)] = (0.3, 3.3333333333333335)
    """Width over height of the rectangle; its logarithm is drawn uniformly."""
    fill: Annotated[tuple[Level, Level, Level], Field(strict=False)] = (0.5, 0.5, 0.5)
    """R, G and B of the rectangle, in [0, 1]."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        low, high = self.area
        if not 0.0 < low <= high < 1.0:
            raise ValueError(f"area [{low}, {high}] must satisfy 0 < low <= high < 1")
        low, high = self.aspect
        if not 0.0 < low <= 1.0 <= high:
            raise ValueError(f"aspect [{low}, {high}] must satisfy 0 < low <= 1 <= high")
        return self

    @property
    def is_on(self) -> bool:
        """Whether any image loses a rectangle."""
        return self.probability > 0.0

    def parameters(self, uniforms: Floats, input_px: int) -> Sequence[Parameter]:
        """Whether one is erased, int32 [N]; its (y, x) and its (height, width) in units of the side, float32 [N, 2] each.

        The first of ten tries that fits; if none does, nothing is erased.
        """
        tries = uniforms[:, 1:].reshape(len(uniforms), _TRIES, 4)
        area = self.area[0] + (self.area[1] - self.area[0]) * tries[..., 0]
        low, high = np.log(self.aspect)
        aspect = np.exp(low + (high - low) * tries[..., 1])
        shape = np.stack([np.sqrt(area / aspect), np.sqrt(area * aspect)], axis=-1)
        fits = np.asarray(shape.max(axis=-1) <= 1.0)
        rows, first = np.arange(len(uniforms)), fits.argmax(axis=1)
        shape = shape[rows, first]
        anchor = tries[rows, first, 2:] * (1.0 - shape)
        erased = (uniforms[:, 0] < np.float32(self.probability)) & fits.any(axis=1)
        return [erased.astype(np.int32), anchor.astype(np.float32), shape.astype(np.float32)]

    def apply(self, image: Any, *parameters: Any) -> Any:
        """The image with its rectangle filled, where one is erased."""
        from nvidia.dali import fn

        erased, anchor, shape = parameters
        if erased != 0:  # a statement: DALI's conditionals know no expression of this kind
            levels = [255.0 * level for level in self.fill]
            image = fn.erase(image, anchor=anchor, shape=shape, axis_names="HW", normalized=True, fill_value=levels)
        return image
