"""Grayscale: exactly the drawn images, to Pillow's luma."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inceptionctl.augmentations.grayscale import Grayscale
from inceptionctl.data.dataset import ImageSet, open_split
from inceptionctl.data.sampler import uniforms
from inceptionctl.recipe import load_recipe
from inceptionctl.recipe.schema import Recipe
from inceptionctl.train.inputs import train_transforms
from tests.data.conftest import photo
from tests.data.test_train_loader import EVERYTHING, NOTHING, MakeRoot, stream
from tests.data.test_train_pixels import SIDE, augmented

HALF = Grayscale(probability=0.5)


@pytest.fixture
def square(make_root: MakeRoot) -> ImageSet:
    return open_split(make_root({"train/only/0.png": photo(3, SIDE, SIDE)}), "train")


def test_exactly_the_drawn_images_become_gray(square: ImageSet) -> None:
    pixels = photo(3, SIDE, SIDE)
    luma = np.repeat(np.asarray(Image.fromarray(pixels).convert("L"))[..., None], 3, axis=2)
    is_gray = uniforms(5, 0, 32, 1, Grayscale.stream())[:, 0] < 0.5
    assert 0 < is_gray.sum() < 32
    for made, gray in zip(augmented(square, replace(NOTHING, augmentations=[HALF])), is_gray, strict=True):
        off = np.abs(made - (luma if gray else pixels))
        # Pillow rounds a luma halfway between two values down now and then.
        assert (off > 1e-3).mean() < (0.005 if gray else 1e-9) and off.max() < 1.01


@pytest.mark.parametrize("ranks", [2, 4])
def test_the_same_whoever_makes_it(root: Path, ranks: int) -> None:
    train, changes = open_split(root, "train"), replace(EVERYTHING, augmentations=[HALF])
    whole, _ = stream(train, augmentation=changes)
    shared, _ = stream(train, ranks, augmentation=changes, micro_batch_size=3, num_threads=1)
    assert torch.equal(whole, shared)


def test_a_recipe_switches_it_on(tmp_path: Path) -> None:
    assert train_transforms(Recipe()).augmentations == ()
    recipe = tmp_path / "gray.yaml"
    recipe.write_text("data: {augment: {grayscale: {probability: 0.2}}}\n")
    assert train_transforms(load_recipe(recipe)).augmentations == (Grayscale(probability=0.2),)
