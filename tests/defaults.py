"""How images become a network's input in tests: as a recipe without any key says, but for what a test changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from inceptionctl.data.transforms import Preparation, TrainTransforms
from inceptionctl.recipe.schema import Recipe
from inceptionctl.train.inputs import preparation_of, train_transforms


def preparation(input_px: int, **changes: Any) -> Preparation:
    """Of evaluations."""
    return replace(preparation_of(Recipe()), input_px=input_px, **changes)


def transforms(**changes: Any) -> TrainTransforms:
    """Of training images."""
    return replace(train_transforms(Recipe()), **{"input_px": 40, **changes})
