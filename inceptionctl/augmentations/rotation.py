"""Random rotation about the centre."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from inceptionctl.augmentations.base import Augmentation, Floats, Parameter
from inceptionctl.augmentations.operations import rotation
from inceptionctl.section import Probability


class Rotation(Augmentation):
    """Rotates every image about its center by a random angle, bilinearly."""

    ORDER: ClassVar[int] = 50
    NUM_UNIFORMS: ClassVar[int] = 1

    degrees: float = Field(default=0.0, ge=0.0, le=180.0)
    """Largest angle either way, drawn uniformly; 0 disables it. 180 suits photographs without an up and a down."""
    fill: Probability = 0.5
    """Level, in [0, 1], of the corners that come from outside the image."""

    @property
    def is_on(self) -> bool:
        """Whether any image is rotated."""
        return self.degrees > 0.0

    def parameters(self, uniforms: Floats, input_px: int) -> Sequence[Parameter]:
        """From destination to source, float32 [N, 2, 3], in pixels."""
        return [rotation(self._drawn(uniforms), input_px).astype(np.float32).reshape(-1, 2, 3)]

    def words(self, uniforms: Floats) -> list[str]:
        """The angles, counterclockwise."""
        return [f"rotated {degrees:.0f}" for degrees in self._drawn(uniforms)]

    def _drawn(self, uniforms: Floats) -> Any:
        return self.degrees * (2.0 * uniforms[:, 0].astype(np.float64) - 1.0)

    def apply(self, image: Any, *parameters: Any) -> Any:
        """The rotated image."""
        from nvidia.dali import fn

        return fn.warp_affine(image, matrix=parameters[0], fill_value=255.0 * self.fill)
