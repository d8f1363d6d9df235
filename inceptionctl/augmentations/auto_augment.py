"""AutoAugment (Cubuk et al. 2019, tables 1 and 9), RandAugment (Cubuk et al. 2020) and TrivialAugment (Mueller and Hutter 2021, table 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from inceptionctl.augmentations.base import Augmentation, Floats, Parameter
from inceptionctl.augmentations.operations import NAMES, Doubles, numbered, operate
from inceptionctl.section import Probability

_MAX_OPS = 4
_PER_OP = 5  # operation, sign, whether at all, and two for a magnitude
MAX_MAGNITUDE = 30

# Values at magnitude 0 and at the highest: RandAugment's and AutoAugment's, and TrivialAugment's wider ones. `signed` ones go either way
# from the first. A factor of ImageEnhance is 1 + v, posterize drops v of 8 bits.
_SIGNED = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "color", "contrast", "sharpness")
_ENHANCE = ("brightness", "color", "contrast", "sharpness")
_TRANSLATION = 150 / 331  # of AutoAugment's 331 px
_USUAL = {
    **{"shear_x": 0.3, "shear_y": 0.3, "translate_x": _TRANSLATION, "translate_y": _TRANSLATION, "rotate": 30.0},
    **dict.fromkeys(_ENHANCE, 0.9),
    **{"posterize": 4.0, "solarize": 256.0},
}
_WIDE = {
    **{"shear_x": 0.99, "shear_y": 0.99, "translate_x": 32 / 224, "translate_y": 32 / 224, "rotate": 135.0},
    **dict.fromkeys(_ENHANCE, 0.99),
    **{"posterize": 6.0, "solarize": 256.0},
}
# Both draw from all but `invert`.
_DRAWN = np.array([place for place, name in enumerate(NAMES) if name != "invert"])

# ImageNet's sub-policies (table 9): operation, probability, magnitude of 0 to 9; twice.
_IMAGENET = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 5)),
    (("equalize", 0.8, 8), ("equalize", 0.6, 3)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4, 7), ("solarize", 0.2, 4)),
    (("equalize", 0.4, 4), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6, 7)),
    (("posterize", 0.8, 5), ("equalize", 1.0, 2)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6, 8), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("color", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, 2)),
    (("equalize", 0.0, 7), ("equalize", 0.8, 8)),
    (("invert", 0.6, 4), ("equalize", 1.0, 8)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("color", 1.0, 2)),
    (("color", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6, 8)),
    (("shear_x", 0.6, 5), ("equalize", 1.0, 9)),
    (("color", 0.4, 0), ("equalize", 0.6, 3)),
    (("equalize", 0.4, 7), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 5)),
    (("invert", 0.6, 4), ("equalize", 1.0, 8)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, 8), ("equalize", 0.6, 3)),
)


class AutoAugment(Augmentation):
    """Applies operations drawn from a list: RandAugment, TrivialAugment or AutoAugment's policy for ImageNet."""

    ORDER: ClassVar[int] = 100
    NUM_UNIFORMS: ClassVar[int] = 1 + _PER_OP * _MAX_OPS

    policy: Literal["none", "rand", "trivial", "imagenet"] = "none"
    """`rand`: RandAugment; `trivial`: TrivialAugment (wide); `imagenet`: AutoAugment's 25 sub-policies; `none` switches it off."""
    num_ops: int = Field(default=2, ge=1, le=_MAX_OPS)
    """RandAugment: operations of an image."""
    magnitude: float = Field(default=9.0, ge=0.0, le=MAX_MAGNITUDE)
    """RandAugment: strength of all operations, from 0 to 30 as in the paper and in torchvision (timm's scale ends at 10)."""
    magnitude_std: float = Field(default=0.0, ge=0.0)
    """RandAugment: standard deviation of the magnitude, drawn for each operation (timm's `mstd`, times three)."""
    fill: Probability = 0.5
    """Level, in [0, 1], of pixels that a shear, translation or rotation brings in from outside the image."""

    @property
    def is_on(self) -> bool:
        """Whether there is a policy."""
        return self.policy != "none"

    def parameters(self, uniforms: Floats, input_px: int) -> Sequence[Parameter]:
        """For each operation of an image its kind, int32 [N], and numbers, float32 [N, 12] (operations.py)."""
        return [part for operations, values in self._chosen(uniforms) for part in numbered(operations, values, input_px)]

    def words(self, uniforms: Floats) -> list[str]:
        """Operations and their values, one after another."""
        layers = [zip(operations, values, strict=True) for operations, values in self._chosen(uniforms)]
        return [", ".join(filter(None, map(_in_words, image))) for image in zip(*layers, strict=True)]

    def _chosen(self, uniforms: Floats) -> list[tuple[NDArray[np.int64], Doubles]]:
        """(operations, values), [N] each, of every layer."""
        drawn = uniforms[:, 1:].astype(np.float64).reshape(len(uniforms), _MAX_OPS, _PER_OP)
        if self.policy == "imagenet":
            return [self._from_policy(uniforms[:, 0], drawn[:, layer], layer) for layer in range(2)]
        return [self._from_all(drawn[:, layer]) for layer in range(self.num_ops if self.policy == "rand" else 1)]

    def _from_all(self, drawn: Doubles) -> tuple[NDArray[np.int64], Doubles]:
        operations = _DRAWN[(drawn[:, 0] * len(_DRAWN)).astype(np.int64)]
        if self.policy == "trivial":
            strength = np.floor(drawn[:, 3] * (MAX_MAGNITUDE + 1)) / MAX_MAGNITUDE
            return operations, _values(operations, strength, drawn[:, 1], _WIDE)
        normal = np.sqrt(-2.0 * np.log(1.0 - drawn[:, 3])) * np.cos(2.0 * np.pi * drawn[:, 4])  # Box and Muller 1958
        strength = np.clip(self.magnitude + self.magnitude_std * normal, 0.0, MAX_MAGNITUDE) / MAX_MAGNITUDE
        return operations, _values(operations, strength, drawn[:, 1], _USUAL)

    def _from_policy(self, policy: Floats, drawn: Doubles, layer: int) -> tuple[NDArray[np.int64], Doubles]:
        names, probabilities, magnitudes = zip(*(both[layer] for both in _IMAGENET), strict=True)
        place = (policy * np.float32(len(_IMAGENET))).astype(np.int64)
        operations = np.array([NAMES.index(name) for name in names])[place]
        operations[drawn[:, 2] >= np.array(probabilities)[place]] = NAMES.index("identity")
        return operations, _values(operations, np.array(magnitudes)[place] / 9.0, drawn[:, 1], _USUAL)

    def apply(self, image: Any, *parameters: Any) -> Any:
        """One operation after another."""
        for layer in range(0, len(parameters), 2):  # zip of DALI's conditionals knows no `strict`
            image = operate(image, parameters[layer], parameters[layer + 1], 255.0 * self.fill)
        return image


def _in_words(drawn: tuple[int, float]) -> str:
    name, value = NAMES[drawn[0]], drawn[1]
    if name == "identity":
        return ""
    return f"{name} {value:.3g}" if name in _USUAL else name


def _values(operations: NDArray[np.int64], strength: Doubles, sign: Doubles, most: dict[str, float]) -> Doubles:
    """What OPERATIONS take, from strengths in [0, 1] and uniforms that say which way."""
    values = np.zeros(len(operations))
    for place in np.unique(operations):
        name, rows = NAMES[place], operations == place
        value = most.get(name, 0.0) * strength[rows]
        if name in _SIGNED:
            value = np.where(sign[rows] < 0.5, -value, value)
        if name in _ENHANCE:
            value = 1.0 + value
        values[rows] = 8.0 - np.round(value) if name == "posterize" else 256.0 - value if name == "solarize" else value
    return values
