"""Gaussian blur (SimCLR, Chen et al. 2020, takes a probability of 0.5 and sigmas of 0.1 to 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from pydantic import Field, model_validator

from inceptionctl.augmentations.base import Augmentation, Floats, Parameter
from inceptionctl.section import Probability


class GaussianBlur(Augmentation):
    """Blurs some images with a Gaussian kernel."""

    ORDER: ClassVar[int] = 400
    NUM_UNIFORMS: ClassVar[int] = 2

    probability: Probability = 0.0
    """Probability that an image is blurred; 0 disables it."""
    sigma: Annotated[tuple[float, float], Field(strict=False)] = (0.1, 2.0)
    """Standard deviation of the kernel in pixels of the input, drawn uniformly."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        low, high = self.sigma
        if not 0.0 < low <= high <= 50.0:
            raise ValueError(f"sigma [{low}, {high}] must satisfy 0 < low <= high <= 50")
        return self

    @property
    def is_on(self) -> bool:
        """Whether any image is blurred."""
        return self.probability > 0.0

    def parameters(self, uniforms: Floats, input_px: int) -> Sequence[Parameter]:
        """Whether an image is blurred, int32 [N], and its sigma, float32 [N]."""
        low, high = self.sigma
        blurred = uniforms[:, 0] < np.float32(self.probability)
        return [blurred.astype(np.int32), (low + (high - low) * uniforms[:, 1]).astype(np.float32)]

    def apply(self, image: Any, *parameters: Any) -> Any:
        """The blurred image, where one is."""
        from nvidia.dali import fn

        blurred, sigma = parameters
        if blurred != 0:  # a statement: DALI's conditionals know no expression of this kind
            image = fn.gaussian_blur(image, sigma=sigma)
        return image
