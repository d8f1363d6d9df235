"""Random erasing: one rectangle where the draws say, filled; nothing else changes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from inceptionctl.augmentations.random_erasing import RandomErasing
from inceptionctl.data.dataset import open_split
from inceptionctl.data.sampler import uniforms
from inceptionctl.errors import RecipeError
from inceptionctl.recipe import load_recipe
from tests.data.conftest import photo
from tests.data.test_train_loader import EVERYTHING, NOTHING, MakeRoot, stream
from tests.data.test_train_pixels import SIDE, augmented

HALF = RandomErasing(probability=0.5, fill=(0.0, 0.4, 1.0))


def test_one_rectangle_of_the_drawn_images_is_filled(make_root: MakeRoot) -> None:
    pixels = photo(3, SIDE, SIDE)
    square = open_split(make_root({"train/only/0.png": pixels}), "train")
    drawn = HALF.parameters(uniforms(5, 0, 32, RandomErasing.NUM_UNIFORMS, RandomErasing.stream()), SIDE)
    assert 0 < drawn[0].sum() < 32
    for made, erased, anchor, shape in zip(augmented(square, replace(NOTHING, augmentations=[HALF])), *drawn, strict=True):
        (top, left), (bottom, right) = (np.round(SIDE * corner).astype(int) for corner in (anchor, anchor + shape))
        expected = pixels.copy()
        if erased:
            expected[top:bottom, left:right] = (0, 102, 255)
        changed = (np.abs(made - expected) > 1e-3).any(axis=-1)
        # An edge halfway between two pixels may be rounded the other way.
        assert changed.sum() <= (2 * SIDE if erased else 0)
        assert not changed[top + 1 : bottom - 1, left + 1 : right - 1].any()


def test_areas_and_aspects_are_those_of_the_section() -> None:
    erased, anchor, shape = RandomErasing(probability=1.0).parameters(uniforms(1, 0, 4000, RandomErasing.NUM_UNIFORMS), 299)
    assert erased.mean() > 0.999
    area, aspect = shape.prod(axis=1), shape[:, 1] / shape[:, 0]
    assert 0.019 < area.min() < 0.03 and 0.31 < area.max() < 0.334
    assert 0.29 < aspect.min() < 0.35 and 3.0 < aspect.max() < 3.34
    assert abs(np.log(aspect).mean()) < 0.05
    assert anchor.min() >= 0.0 and (anchor + shape).max() <= 1.0 + 1e-6


def test_the_same_on_any_number_of_ranks(root: Path) -> None:
    train, changes = open_split(root, "train"), replace(EVERYTHING, augmentations=[HALF])
    whole, _ = stream(train, augmentation=changes)
    shared, _ = stream(train, 4, augmentation=changes, micro_batch_size=3, num_threads=1)
    assert torch.equal(whole, shared)


@pytest.mark.parametrize("wrong", ["area: [0.5, 0.1]", "area: [0.5, 1.0]", "aspect: [2, 3]", "probability: 1.5"])
def test_wrong_ranges_are_refused(tmp_path: Path, wrong: str) -> None:
    recipe = tmp_path / "erase.yaml"
    recipe.write_text(f"data: {{augment: {{random_erasing: {{{wrong}}}}}}}\n")
    with pytest.raises(RecipeError, match=f"data.augment.random_erasing.*{wrong.split(':')[0]}"):
        load_recipe(recipe)
