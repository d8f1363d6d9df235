"""Whole orders of colour changes as one affine map, against the same changes made one after another, and against TensorFlow's."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from inceptionctl.data.colour import CHANGES, ORDERS, colour_maps, compose, drawn_changes, drawn_orders, limits, normalised
from inceptionctl.data.sampler import uniforms
from inceptionctl.data.transforms import NUM_UNIFORMS
from tests.data import tensorflow_colours as tensorflow
from tests.data.conftest import photo
from tests.defaults import transforms

Doubles = NDArray[np.float64]
IMAGE = photo(11, 60, 50) / 255.0
GRAY = np.repeat(IMAGE[..., :1], 3, axis=-1)
NOTHING = {"brightness": 0.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
FULL = transforms(contrast=0.5, hue_degrees=72.0, color_order="random")
DRAWN = uniforms(8, 0, 64, NUM_UNIFORMS)


def one(order: tuple[str, ...] = ORDERS[0], image: Doubles = IMAGE, **values: float) -> Doubles:
    """An image after the map of these changes."""
    maps = compose(order, {name: np.array([values.get(name, NOTHING[name])]) for name in CHANGES})  # type: ignore[arg-type]
    return image @ maps.matrix[0].T + image.mean(axis=(0, 1)) @ maps.of_mean[0].T + maps.offset[0]


def step(name: str, value: float, image: Doubles) -> Doubles:
    """One change by its definition."""
    if name == "brightness":
        return tensorflow.adjust_brightness(image, value)
    if name == "contrast":
        return tensorflow.adjust_contrast(image, value)
    if name == "saturation":
        luma = (image * [0.299, 0.587, 0.114]).sum(axis=-1, keepdims=True)
        return luma + value * (image - luma)
    # A turn about the gray axis: gray stays, the rest goes round with the vector product.
    gray = image.mean(axis=-1, keepdims=True)
    rest, angle = image - gray, np.radians(value)
    return gray + np.cos(angle) * rest + np.sin(angle) * np.cross(np.full(3, 1 / np.sqrt(3)), rest)


@pytest.mark.parametrize("place", range(4))
def test_a_map_is_its_changes_one_after_another(place: int) -> None:
    changes = {"brightness": 0.1, "contrast": 1.4, "saturation": 0.6, "hue": -50.0}
    expected = IMAGE
    for name in ORDERS[place]:
        expected = step(name, changes[name], expected)
    assert np.abs(one(ORDERS[place], **changes) - expected).max() < 1e-12
    # Brightness and contrast commute with all that is linear in the channels; saturation and hue do not with each other.
    for i, other in enumerate(ORDERS):
        difference = np.abs(one(other, **changes) - expected).max()
        assert difference < 1e-12 if (i < 2) == (place < 2) else difference > 0.01


def test_maps_of_a_batch_are_those_of_its_draws() -> None:
    maps, changes, orders = colour_maps(FULL, DRAWN), drawn_changes(FULL, DRAWN), drawn_orders(FULL, DRAWN)
    assert set(orders) == {0, 1, 2, 3}
    mean = IMAGE.mean(axis=(0, 1))
    for i in range(64):
        expected = one(ORDERS[orders[i]], **{name: changes[name][i] for name in CHANGES})
        made = IMAGE @ maps.matrix[i].T + mean @ maps.of_mean[i].T + maps.offset[i]
        assert np.abs(made - expected).max() < 1e-12


def test_a_map_does_not_depend_on_its_batch() -> None:
    whole = colour_maps(FULL, DRAWN)
    for start, count in ((0, 1), (5, 3), (63, 1), (10, 37)):
        part = colour_maps(FULL, DRAWN[start : start + count])
        for name in ("matrix", "of_mean", "offset"):
            assert np.array_equal(getattr(part, name), getattr(whole, name)[start : start + count])


def test_orders_are_tf_slims() -> None:
    assert ["".join(name[0] for name in order) for order in ORDERS] == ["bshc", "sbch", "chbs", "hscb"]


@pytest.mark.parametrize("value", [-32 / 255, 32 / 255])
def test_brightness_is_tensorflows(value: float) -> None:
    assert np.abs(one(brightness=value) - tensorflow.adjust_brightness(IMAGE, value)).max() < 1e-12


@pytest.mark.parametrize("value", [0.5, 1.5])
def test_contrast_is_tensorflows(value: float) -> None:
    assert np.abs(one(contrast=value) - tensorflow.adjust_contrast(IMAGE, value)).max() < 1e-12


def levels(ours: Doubles, theirs: Doubles) -> float:
    return float(255 * np.abs(np.clip(ours, 0, 1) - np.clip(theirs, 0, 1)).mean())


@pytest.mark.parametrize("value", [0.0, 0.5, 1.5])
def test_saturation_is_tensorflows_but_for_the_brightness(value: float) -> None:
    # Theirs keeps the brightest channel, ours the luma. How far the channels are apart is the same.
    ours, theirs = one(saturation=value), tensorflow.adjust_saturation(IMAGE, value)
    unclipped = tensorflow.to_hsv(IMAGE)[1] * value <= 1.0
    assert 0.5 < unclipped.mean()
    apart = [image - image.max(axis=-1, keepdims=True) for image in (ours, theirs)]
    assert np.abs(apart[0] - apart[1])[unclipped].max() < 1e-12
    assert np.abs((ours - IMAGE) @ [0.299, 0.587, 0.114]).max() < 1e-12
    assert np.abs(one(image=GRAY, saturation=value) - tensorflow.adjust_saturation(GRAY, value)).max() < 1e-12


@pytest.mark.parametrize("value", [-72.0, 20.0, 72.0])
def test_hue_is_like_tensorflows_and_turns_the_same_way(value: float) -> None:
    theirs = tensorflow.adjust_hue(IMAGE, value / 360)
    assert levels(one(hue=value), theirs) < 0.9 * levels(IMAGE, theirs)
    assert levels(one(hue=-value), theirs) > levels(IMAGE, theirs)
    assert np.abs(one(image=GRAY, hue=value) - GRAY).max() < 1e-12


def test_a_third_of_the_circle_swaps_the_channels_as_in_hsv() -> None:
    assert np.abs(one(hue=120.0) - np.roll(IMAGE, 1, axis=-1)).max() < 1e-12
    assert np.abs(tensorflow.adjust_hue(IMAGE, 1 / 3) - np.roll(IMAGE, 1, axis=-1)).max() < 1e-12


def test_normalised_maps_take_levels_to_the_networks_input() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    maps = colour_maps(FULL, DRAWN)
    matrix, offset, of_mean = normalised(maps, mean, std)
    assert {part.dtype for part in (matrix, offset, of_mean)} == {np.dtype(np.float32)}
    average = IMAGE.mean(axis=(0, 1))
    for i in range(8):
        plain = IMAGE @ maps.matrix[i].T + average @ maps.of_mean[i].T + maps.offset[i]
        made = 255 * IMAGE @ matrix[i].T + 255 * average @ of_mean[i].T + offset[i]
        assert np.abs(made - (plain - mean) / std).max() < 1e-5


def test_limits_are_those_of_black_and_white() -> None:
    assert limits((0.5,) * 3, (0.5,) * 3) == [(-1.0, 1.0)] * 3
    assert limits((0.25, 0.5, 0.0), (0.5, 0.25, 1.0)) == [(-0.5, 1.5), (-2.0, 2.0), (0.0, 1.0)]
