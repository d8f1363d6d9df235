"""What each random change does to one image, computed here by hand on lossless pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from inceptionctl.data.colour import CHANGES, ORDERS, Change, drawn_changes, drawn_orders
from inceptionctl.data.dataset import ImageSet, open_split
from inceptionctl.data.sampler import uniforms
from inceptionctl.data.transforms import NUM_UNIFORMS, TrainTransforms, chosen_filters, chosen_flips, crop_candidates
from tests.data.conftest import photo
from tests.data.resampling import boxed, resampled
from tests.data.test_colour import step
from tests.data.test_train_loader import FILTERS, IMAGENET, NOTHING, MakeRoot, loader
from tests.data.test_training_graph import in_numpy

SIDE = 48


@pytest.fixture
def square(make_root: MakeRoot) -> tuple[ImageSet, NDArray[np.float32]]:
    """A data set of one picture of 48 x 48, and the picture, in 0..255."""
    pixels = photo(3, SIDE, SIDE)
    return open_split(make_root({"train/only/0.png": pixels}), "train"), pixels.astype(np.float32)


def augmented(dataset: ImageSet, augmentation: TrainTransforms, **changes: Any) -> NDArray[np.float32]:
    """32 places, [32, 48, 48, 3], back in 0..255."""
    options = {"input_px": SIDE, "global_batch_size": 32, "micro_batch_size": 32, **changes}
    images = next(loader(dataset, augmentation=augmentation, **options)).images.permute(0, 2, 3, 1).numpy()
    mean, std = (np.array(changes.get(name, (0.5,) * 3)) for name in ("mean", "std"))
    return 255 * (images * std + mean)


DRAWN = uniforms(5, 0, 32, NUM_UNIFORMS)
# float32 in [-1, 1], seen in 0..255: half a unit in the last place is 4e-6 of 127.5.
EXACT = 1e-3


def test_nothing_leaves_the_picture_as_it_is(square: tuple[ImageSet, NDArray[np.float32]]) -> None:
    dataset, pixels = square
    assert np.abs(augmented(dataset, NOTHING) - pixels).max() < EXACT


def test_flips_mirror_exactly_the_drawn_ones(square: tuple[ImageSet, NDArray[np.float32]]) -> None:
    dataset, pixels = square
    both = replace(NOTHING, horizontal_flip=0.5, vertical_flip=0.5)
    horizontal, vertical = chosen_flips(both, DRAWN).T
    assert 0 < horizontal.sum() < 32 and 0 < vertical.sum() < 32 and (horizontal != vertical).any()
    for made, mirror, upside_down in zip(augmented(dataset, both), horizontal, vertical, strict=True):
        expected = pixels[:: -1 if upside_down else 1, :: -1 if mirror else 1]
        assert np.abs(made - expected).max() < EXACT
    for one in (replace(both, horizontal_flip=0.0), replace(both, vertical_flip=0.0)):
        expected_flips = zip(horizontal * (one.horizontal_flip > 0), vertical * (one.vertical_flip > 0), strict=True)
        for made, (mirror, upside_down) in zip(augmented(dataset, one), expected_flips, strict=True):
            assert np.abs(made - pixels[:: -1 if upside_down else 1, :: -1 if mirror else 1]).max() < EXACT


def recoloured(pixels: NDArray[np.float32], changes: dict[Change, float], order: tuple[Change, ...]) -> NDArray[np.float64]:
    """Changes one after another, and one clip at the end; 0..255."""
    image = pixels / 255.0
    for name in order:
        image = step(name, changes[name], image)
    return 255.0 * np.clip(image, 0.0, 1.0)


@pytest.mark.parametrize("normalisation", [{}, IMAGENET])
@pytest.mark.parametrize(
    "widths",
    [
        {"brightness": 0.5},
        {"contrast": 0.5},
        {"saturation": 0.9},
        {"hue_degrees": 90.0},
        {"brightness": 32 / 255, "saturation": 0.5},
        {"brightness": 32 / 255, "saturation": 0.5, "contrast": 0.5, "hue_degrees": 72.0, "color_order": "random"},
    ],
)
def test_each_colour_change_is_what_it_says(
    square: tuple[ImageSet, NDArray[np.float32]], widths: dict[str, Any], normalisation: dict[str, Any]
) -> None:
    dataset, pixels = square
    some = replace(NOTHING, horizontal_flip=0.5, **widths)
    changes, orders, mirrors = drawn_changes(some, DRAWN), drawn_orders(some, DRAWN), chosen_flips(some, DRAWN)[:, 0]
    assert len(set(orders)) == (4 if "color_order" in widths else 1)
    for i, made in enumerate(augmented(dataset, some, **normalisation)):
        drawn = {name: float(changes[name][i]) for name in CHANGES}
        expected = recoloured(pixels, drawn, ORDERS[orders[i]])[:, :: -1 if mirrors[i] else 1]
        assert np.abs(made - expected).max() < EXACT
        assert np.abs(made - pixels).mean() > 0.1


def test_without_colours_the_normalisation_is_the_same(square: tuple[ImageSet, NDArray[np.float32]]) -> None:
    dataset, pixels = square
    assert np.abs(augmented(dataset, NOTHING, **IMAGENET) - pixels).max() < EXACT


def test_crops_show_parts_of_the_picture(make_root: MakeRoot) -> None:
    # A picture whose red is its column and whose green is its row tells where a crop was taken.
    y, x = np.mgrid[0:200, 0:200].astype(np.uint8)
    dataset = open_split(make_root({"train/only/0.png": np.stack([x, y, x * 0], axis=-1)}), "train")
    part = replace(NOTHING, crop_area=(0.1, 0.5), crop_aspect=(0.75, 4 / 3))
    seen = augmented(dataset, part)
    widths, heights = seen[:, 0, -1, 0] - seen[:, 0, 0, 0], seen[:, -1, 0, 1] - seen[:, 0, 0, 1]
    # Resized without a border of its own, the outer pixel centres of a crop lie half an output pixel inside it.
    share = (widths * SIDE / (SIDE - 1)) * (heights * SIDE / (SIDE - 1)) / 200**2
    assert 0.095 < share.min() and share.max() < 0.51 and share.std() > 0.05
    assert seen[:, 0, 0, 0].std() > 20 and seen[:, 0, 0, 1].std() > 20


def cropped(pixels: NDArray[np.uint8], part: TrainTransforms) -> list[NDArray[np.uint8]]:
    """The drawn parts of a picture, at 32 places."""
    size = np.array(pixels.shape, dtype=np.int32)
    windows = [in_numpy(size, tried) for tried in crop_candidates(part, DRAWN)]
    return [pixels[y : y + height, x : x + width] for (y, x), (height, width) in windows]


# DALI resizes 8-bit images to 8 bits: half a level of rounding, and a little for its float32 weights and tabulated kernels.
ROUNDING = {"bilinear": 0.51, "nearest": 0.0, "bicubic": 0.6, "lanczos": 0.6}
# Where it is the only filter, torch resizes: it rounds after each of the two directions, to half a level each.
ROUNDING_OF_TORCH = 1.02


@pytest.mark.parametrize("name", ROUNDING)
def test_the_crop_is_the_drawn_one_resized_without_antialiasing(make_root: MakeRoot, name: str) -> None:
    pixels = photo(6, 170, 110)
    dataset = open_split(make_root({"train/only/0.png": pixels}), "train")
    part = replace(NOTHING, crop_area=(0.08, 1.0), crop_aspect=(0.75, 4 / 3), resize_filters=[name])
    allowed = ROUNDING_OF_TORCH if name == "bilinear" else ROUNDING[name]
    for made, crop in zip(augmented(dataset, part), cropped(pixels, part), strict=True):
        difference = np.abs(made - resampled(crop, SIDE, name))
        assert difference.max() <= allowed + EXACT
        assert difference.mean() <= 0.35


def test_each_image_is_resized_by_the_filter_that_it_drew(make_root: MakeRoot) -> None:
    pixels = photo(6, 170, 110)
    dataset = open_split(make_root({"train/only/0.png": pixels}), "train")
    part = replace(NOTHING, crop_area=(0.4, 1.0), crop_aspect=(0.75, 4 / 3), resize_filters=FILTERS)
    (filters,) = chosen_filters(part, DRAWN)
    assert set(filters) == {0, 1, 2, 3}
    for made, crop, place in zip(augmented(dataset, part), cropped(pixels, part), filters, strict=True):
        if FILTERS[place] == "area":
            continue
        assert np.abs(made - resampled(crop, SIDE, FILTERS[place])).max() <= ROUNDING[FILTERS[place]] + EXACT
    mixed = augmented(dataset, part)
    alone = {name: augmented(dataset, replace(part, resize_filters=[name])) for name in FILTERS}
    for i, place in enumerate(filters):
        by_torch = FILTERS[place] == "bilinear"
        assert np.abs(mixed[i] - alone[FILTERS[place]][i]).max() <= (1.0 + EXACT if by_torch else 0.0)
    three = replace(part, resize_filters=FILTERS[:3])
    (filters,) = chosen_filters(three, DRAWN)
    for i, made in enumerate(augmented(dataset, three)):
        by_torch = FILTERS[filters[i]] == "bilinear"
        assert np.abs(made - alone[FILTERS[filters[i]]][i]).max() <= (1.0 + EXACT if by_torch else 0.0)


def test_area_is_nearly_a_box_average(make_root: MakeRoot) -> None:
    pixels = photo(6, 170, 110)
    dataset = open_split(make_root({"train/only/0.png": pixels}), "train")
    part = replace(NOTHING, crop_area=(0.3, 1.0), crop_aspect=(0.75, 4 / 3))
    apart = {}
    for name in ("area", "bilinear", "nearest"):
        made = augmented(dataset, replace(part, resize_filters=[name]))
        apart[name] = np.mean(
            [np.abs(one - boxed(crop, SIDE)).mean() for one, crop in zip(made, cropped(pixels, part), strict=True)]
        )
    assert apart["area"] < 0.7 and apart["area"] < 0.5 * apart["bilinear"] < apart["nearest"]


def test_photographs_stand_upright(tmp_path: Path) -> None:
    upright = Image.fromarray(photo(2, 120, 80))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side: to be turned by a quarter clockwise
    (tmp_path / "train/a").mkdir(parents=True)
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "train/a/0.jpg", exif=exif, quality=95)
    dataset = open_split(tmp_path, "train")
    made = augmented(dataset, replace(NOTHING, crop_aspect=(1.5, 1.5)))[0]
    expected = np.array(upright.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float32)
    assert np.abs(made - expected).mean() < 6
    assert np.abs(made - np.array(upright.transpose(Image.Transpose.ROTATE_90).resize((SIDE, SIDE)))).mean() > 20


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "I;16", "CMYK"])
def test_other_kinds_of_pixels_become_rgb(tmp_path: Path, mode: str) -> None:
    (tmp_path / "train/a").mkdir(parents=True)
    picture = Image.fromarray(photo(4, 60, 50))
    if mode == "I;16":
        gray = np.array(picture.convert("L"))
        Image.fromarray(gray.astype(np.uint16) * 257).save(tmp_path / "train/a/0.png")
        picture = Image.fromarray(gray)
    else:
        picture = picture.convert(mode)
        picture.save(tmp_path / f"train/a/0.{'jpg' if mode == 'CMYK' else 'png'}")
    batch = next(loader(open_split(tmp_path, "train"), augmentation=replace(NOTHING, crop_aspect=(1.2, 1.2))))
    expected = np.array(picture.convert("RGB")).mean(axis=(0, 1)) / 127.5 - 1
    assert np.abs(batch.images[0].mean(dim=(1, 2)).numpy() - expected).max() < 0.05
