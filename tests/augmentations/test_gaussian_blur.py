"""Gaussian blur: exactly the drawn images, with the drawn kernel."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from inceptionctl.augmentations.gaussian_blur import GaussianBlur
from inceptionctl.data.dataset import open_split
from inceptionctl.data.sampler import uniforms
from inceptionctl.errors import RecipeError
from inceptionctl.recipe import load_recipe
from tests.data.conftest import photo
from tests.data.test_train_loader import EVERYTHING, NOTHING, MakeRoot, stream
from tests.data.test_train_pixels import SIDE, augmented

HALF = GaussianBlur(probability=0.5)


def test_the_drawn_images_are_blurred_with_the_drawn_sigma(make_root: MakeRoot) -> None:
    pixels = photo(3, SIDE, SIDE)
    square = open_split(make_root({"train/only/0.png": pixels}), "train")
    drawn = HALF.parameters(uniforms(5, 0, 32, 2, GaussianBlur.stream()), SIDE)
    assert 0 < drawn[0].sum() < 32
    for made, blurred, sigma in zip(augmented(square, replace(NOTHING, augmentations=[HALF])), *drawn, strict=True):
        expected = pixels.astype(float)
        if blurred:
            radius = int(np.ceil(3 * sigma))
            expected = np.stack(
                [gaussian_filter(expected[..., k], sigma, mode="mirror", radius=radius) for k in range(3)], axis=-1
            )
        assert np.abs(made - expected).max() < (1.0 if blurred else 1e-3)


def test_the_same_on_any_number_of_ranks(root: Path) -> None:
    train, changes = open_split(root, "train"), replace(EVERYTHING, augmentations=[HALF])
    whole, _ = stream(train, augmentation=changes)
    shared, _ = stream(train, 4, augmentation=changes, micro_batch_size=3, num_threads=1)
    assert torch.equal(whole, shared)


def test_a_wrong_range_is_refused(tmp_path: Path) -> None:
    (tmp_path / "blur.yaml").write_text("data: {augment: {gaussian_blur: {sigma: [2, 1]}}}\n")
    with pytest.raises(RecipeError, match=r"gaussian_blur.*sigma \[2\.0, 1\.0\] must satisfy"):
        load_recipe(tmp_path / "blur.yaml")
