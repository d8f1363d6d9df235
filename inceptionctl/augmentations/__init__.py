"""Random changes of a training image after its resize and before its flips and colours: one module each, listed by being here.

A module defines one subclass of `Augmentation`. The module's name is the key under `data.augment`, the fields of the class are the keys
of that section, and its docstring is the section's description in the recipe reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pkgutil import iter_modules

from inceptionctl.augmentations.base import Augmentation, Floats, Parameter

__all__ = ["AUGMENTATIONS", "Augmentation", "parameters_of"]


def _found() -> dict[str, type[Augmentation]]:
    for module in iter_modules(__path__, f"{__name__}."):
        import_module(module.name)
    return {kind.key(): kind for kind in sorted(Augmentation.__subclasses__(), key=lambda kind: kind.ORDER)}


AUGMENTATIONS = _found()
"""By their keys, in the order in which they are applied."""

Uniforms = Callable[[int, int], Floats]
"""(stream, how many an image) to uniforms, float32 [N, how many]."""


def parameters_of(augmentations: Sequence[Augmentation], uniforms: Uniforms, input_px: int) -> list[Parameter]:
    """The parameters of all, one augmentation after another."""
    return [p for one in augmentations for p in one.parameters(uniforms(one.stream(), one.NUM_UNIFORMS), input_px)]
