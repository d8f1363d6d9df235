"""What every augmentation is."""

from __future__ import annotations

import zlib
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from inceptionctl.section import Section

Floats = NDArray[np.float32]
Parameter = NDArray[np.float32] | NDArray[np.int32]


class Augmentation(Section):
    """One random change. It draws nothing itself: an image stays a pure function of (seed, place)."""

    ORDER: ClassVar[int]
    """Augmentations are applied in ascending order."""
    NUM_UNIFORMS: ClassVar[int]
    """Numbers in [0, 1) that an image uses up."""

    @property
    @abstractmethod
    def is_on(self) -> bool:
        """Whether it changes any image; one that is off costs nothing."""

    @abstractmethod
    def parameters(self, uniforms: Floats, input_px: int) -> Sequence[Parameter]:
        """What `apply` needs for squares of `input_px`, float32 or int32 [N, ...] each, from uniforms [N, NUM_UNIFORMS], row by row."""

    @abstractmethod
    def apply(self, image: Any, *parameters: Any) -> Any:
        """The changed image, uint8 HWC like `image`: nodes of a DALI graph that has conditionals, with nothing random inside."""

    def words(self, uniforms: Floats) -> list[str]:
        """What is done to each image, for people; nothing for one that is left alone."""
        return [self.key() if changed else "" for changed in self.parameters(uniforms, 1)[0].tolist()]

    @classmethod
    def stream(cls) -> int:
        """Which numbers it uses. They depend on its name alone, so that no augmentation changes the draws of another."""
        return 1 + zlib.crc32(cls.key().encode())

    @classmethod
    def key(cls) -> str:
        """The name of its module: its key under `data.augment`."""
        return cls.__module__.rpartition(".")[2]
