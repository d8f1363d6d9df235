"""From a recipe to how its images are prepared outside of training."""

from __future__ import annotations

from inceptionctl.data.preparation import Preparation
from inceptionctl.recipe.schema import Recipe


def preparation_of(recipe: Recipe) -> Preparation:
    """How validation images of a recipe are prepared; exports and predictions prepare theirs likewise."""
    section = recipe.evaluate
    return Preparation(
        input_px=recipe.model.input_px,
        central_fraction=section.central_fraction,
        keep_aspect=section.keep_aspect,
        interpolation=section.interpolation,
        antialias=section.antialias,
        mean=recipe.data.mean,
        std=recipe.data.std,
        exif_orientation=recipe.data.exif_orientation,
    )
