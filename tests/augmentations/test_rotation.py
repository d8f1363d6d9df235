"""Rotation: by the drawn angle, as Pillow rotates."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from inceptionctl.augmentations.rotation import Rotation
from inceptionctl.data.dataset import open_split
from inceptionctl.data.sampler import uniforms
from tests.data.conftest import photo
from tests.data.test_train_loader import EVERYTHING, NOTHING, MakeRoot, stream
from tests.data.test_train_pixels import SIDE, augmented

ANY = Rotation(degrees=60, fill=0.4)


def test_images_are_rotated_by_the_drawn_angles(make_root: MakeRoot) -> None:
    pixels = photo(3, SIDE, SIDE)
    square = open_split(make_root({"train/only/0.png": pixels}), "train")
    angles = 60 * (2 * uniforms(5, 0, 32, 1, Rotation.stream())[:, 0].astype(float) - 1)
    assert angles.min() < -40 and angles.max() > 40
    for made, angle in zip(augmented(square, replace(NOTHING, augmentations=[ANY])), angles, strict=True):
        turned = Image.fromarray(pixels).rotate(angle, Image.Resampling.BILINEAR, fillcolor=(102, 102, 102))
        off = np.abs(made - np.asarray(turned)).max(axis=-1)
        # Weights are in fixed point in Pillow, and the edge is smoothed here and cut off there.
        assert (off > 2).mean() < 0.06
    assert Rotation(degrees=60).words(uniforms(5, 0, 1, 1, Rotation.stream())) == [f"rotated {angles[0]:.0f}"]


def test_the_same_on_any_number_of_ranks(root: Path) -> None:
    train, changes = open_split(root, "train"), replace(EVERYTHING, augmentations=[ANY])
    whole, _ = stream(train, augmentation=changes)
    shared, _ = stream(train, 4, augmentation=changes, micro_batch_size=3, num_threads=1)
    assert torch.equal(whole, shared)
