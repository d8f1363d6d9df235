"""Images without colour (SimCLR, Chen et al. 2020, takes a probability of 0.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from inceptionctl.augmentations.base import Augmentation, Floats, Parameter
from inceptionctl.section import Probability

# Luma of ITU-R BT.601, as Pillow and torchvision compute it.
_LUMA = np.tile(np.array([0.299, 0.587, 0.114], np.float32), (3, 1))


class Grayscale(Augmentation):
    """Removes the colour of some images: R, G and B become the luma (ITU-R BT.601)."""

    ORDER = 300
    NUM_UNIFORMS = 1

    probability: Probability = 0.0
    """Probability that an image loses its colour; 0 switches it off."""

    @property
    def is_on(self) -> bool:
        """Whether any image loses its colour."""
        return self.probability > 0.0

    def parameters(self, uniforms: Floats, input_px: int) -> Sequence[Parameter]:
        """Whether an image loses its colour, int32 [N]."""
        return [(uniforms[:, 0] < np.float32(self.probability)).astype(np.int32)]

    def apply(self, image: Any, *parameters: Any) -> Any:
        """The luma in all three channels, where the parameter is 1."""
        from nvidia.dali import fn, types

        (is_gray,) = parameters
        if is_gray != 0:  # a statement: DALI's conditionals know no expression of this kind
            image = fn.coord_transform(image, M=_LUMA.ravel().tolist(), dtype=types.UINT8)
        return image
