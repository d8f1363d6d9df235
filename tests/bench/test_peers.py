"""The Pillow loader does what it is compared for: the same kind of images, changed in the same ways."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inceptionctl.bench.peers import PillowImages, pillow_batches, turbo_round
from inceptionctl.data.dataset import open_split
from tests.data.conftest import photo
from tests.defaults import transforms

PIXELS = photo(4, 64, 64)
NOTHING = transforms(crop_area=(1.0, 1.0), crop_aspect=(1.0, 1.0), horizontal_flip=0.0, brightness=0.0, saturation=0.0)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture
def one(tmp_path: Path) -> Path:
    (tmp_path / "train/a").mkdir(parents=True)
    Image.fromarray(PIXELS).save(tmp_path / "train/a/0.png")
    return tmp_path


def made(root: Path, *, input_px: int = 64, **changes: object) -> np.ndarray:
    """The image back in levels of 0 to 255."""
    mean, std = IMAGENET
    images = PillowImages(open_split(root, "train"), replace(NOTHING, input_px=input_px, mean=mean, std=std, **changes))  # type: ignore[arg-type]
    pixels, label = images[0]
    assert label == 0 and pixels.dtype == np.float32
    return 255.0 * (pixels * np.array(std) + np.array(mean))


def test_nothing_is_changed_where_nothing_is_wanted(one: Path) -> None:
    assert np.abs(made(one) - PIXELS).max() < 1e-3


def test_flips(one: Path) -> None:
    assert np.abs(made(one, horizontal_flip=1.0) - PIXELS[:, ::-1]).max() < 1e-3
    assert np.abs(made(one, vertical_flip=1.0) - PIXELS[::-1]).max() < 1e-3


@pytest.mark.parametrize("change", ["brightness", "contrast", "saturation"])
def test_a_colour_change_moves_pixels_and_leaves_the_shape(one: Path, change: str) -> None:
    moved = np.abs(made(one, **{change: 0.5}) - PIXELS)
    assert moved.mean() > 1.0 and moved.max() <= 128.0


def test_hue_leaves_gray_alone(one: Path) -> None:
    assert np.abs(made(one, hue_degrees=90.0, color_order="random") - PIXELS).mean() > 3.0
    gray = np.repeat(PIXELS[..., :1], 3, axis=2)
    Image.fromarray(gray).save(one / "train/a/0.png")
    assert np.abs(made(one, hue_degrees=90.0) - gray).max() < 1e-3


def test_crops_are_resized_to_the_input(one: Path) -> None:
    assert made(one, input_px=32, crop_area=(0.05, 0.5), resize_filters=("bicubic",)).shape == (32, 32, 3)
    assert made(one, input_px=32, crop_area=(1.0, 1.0), crop_aspect=(9.0, 9.0)).shape == (32, 32, 3)  # none fits: all of it


def test_batches_have_every_image_once_a_pass(tmp_path: Path) -> None:
    for i in range(5):
        (tmp_path / f"train/{i}").mkdir(parents=True)
        Image.fromarray(photo(i, 30, 20)).save(tmp_path / f"train/{i}/0.png")
    images = PillowImages(open_split(tmp_path, "train"), replace(NOTHING, input_px=24, mean=IMAGENET[0], std=IMAGENET[1]))
    batches = pillow_batches(images, 5, 2, num_workers=1)
    taken = list(itertools.islice(batches, 6))
    assert [tuple(pixels.shape) for pixels, _ in taken] == [(2, 3, 24, 24), (2, 3, 24, 24), (1, 3, 24, 24)] * 2
    for some in (taken[:3], taken[3:]):
        assert sorted(label for _, labels in some for label in labels.tolist()) == [0, 1, 2, 3, 4]


def test_turbo_decodes_what_it_is_given(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg")
    encoded = (tmp_path / "a.jpg").read_bytes()
    work, pool = turbo_round([encoded] * 3, 2)
    work()
    broken, other = turbo_round([encoded, b"\xff\xd8\xff no more"], 2)
    with pytest.raises(ValueError):
        broken()
    pool.shutdown()
    other.shutdown()
