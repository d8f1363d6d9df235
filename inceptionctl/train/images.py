"""The images of a recipe: those to train on, and those that validations while training are made on. No torch."""

from __future__ import annotations

from inceptionctl.data.dataset import ImageSet, open_data
from inceptionctl.data.sources.exclusions import subset_of
from inceptionctl.recipe.schema import Recipe

Opened = tuple[ImageSet, ImageSet]


def open_images(recipe: Recipe) -> Opened:
    """Training images, and the validation images of `evaluate.subset`.

    Raises DataError for data that `open_data` refuses, and for a subset that the validation images do not have.
    """
    root = recipe.data.root_path
    train, val = open_data(root, recipe.model.num_classes, **recipe.data.sources(root))
    return train, subset_of(val, recipe.evaluate.subset, recipe.evaluate.blacklist_path)
