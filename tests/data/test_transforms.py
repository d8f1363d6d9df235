"""Draws become parameters within their bounds, and switching one thing off leaves the others as they were."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from inceptionctl.data.colour import CHANGES, ORDERS, drawn_changes, drawn_orders
from inceptionctl.data.sampler import MAX_UNIFORMS, uniforms
from inceptionctl.data.transforms import (
    NUM_CANDIDATES,
    NUM_UNIFORMS,
    chosen_filters,
    chosen_flips,
    crop_candidates,
)
from tests.defaults import transforms

DRAWN = uniforms(4, 0, 5000, NUM_UNIFORMS)
FILTERS = ("bilinear", "nearest", "bicubic")
ALL = transforms(
    resize_filters=FILTERS, vertical_flip=0.25, brightness=0.125, contrast=0.3, hue_degrees=20.0, color_order="random"
)


def test_a_place_has_draws_enough() -> None:
    assert NUM_UNIFORMS <= MAX_UNIFORMS


def test_crop_candidates_fill_their_bounds() -> None:
    candidates = crop_candidates(transforms(crop_area=(0.2, 0.9), crop_aspect=(0.5, 2.0)), DRAWN)
    assert candidates.shape == (5000, NUM_CANDIDATES, 4)
    assert candidates.dtype == np.float32
    area, aspect = candidates[..., 0], candidates[..., 1]
    assert 0.2 <= area.min() < 0.201 and 0.899 < area.max() <= 0.9
    assert 0.4999 <= aspect.min() < 0.501 and 1.998 < aspect.max() <= 2.0001
    assert abs(area.mean() - 0.55) < 0.005
    # Portrait and landscape are equally likely.
    assert abs(np.mean(aspect > 1.0) - 0.5) < 0.01


def test_flips_come_as_often_as_they_should() -> None:
    horizontal, vertical = chosen_flips(ALL, DRAWN).T
    # Standard error 0.007.
    assert abs(horizontal.mean() - 0.5) < 0.03
    assert abs(vertical.mean() - 0.25) < 0.03
    assert abs(np.corrcoef(horizontal, vertical)[0, 1]) < 0.06


def test_certain_flips_are_certain_and_unwanted_ones_never_come() -> None:
    assert chosen_flips(transforms(horizontal_flip=1.0), DRAWN)[:, 0].all()
    assert not chosen_flips(transforms(horizontal_flip=0.0), DRAWN).any()


def test_colours_fill_their_ranges() -> None:
    changes = drawn_changes(ALL, DRAWN)
    expected = {"brightness": (-0.125, 0.125), "contrast": (0.7, 1.3), "saturation": (0.5, 1.5), "hue": (-20.0, 20.0)}
    assert tuple(changes) == tuple(expected) == CHANGES
    for name, (low, high) in expected.items():
        margin = (high - low) * 0.002
        assert low - 1e-6 <= changes[name].min() < low + margin
        assert high - margin < changes[name].max() <= high + 1e-5


def test_filters_and_orders_come_equally_often() -> None:
    (filters,) = chosen_filters(ALL, DRAWN)
    orders = drawn_orders(ALL, DRAWN)
    # Standard error 0.007.
    assert np.abs(np.bincount(filters, minlength=3) / 5000 - 1 / 3).max() < 0.03
    assert np.abs(np.bincount(orders, minlength=len(ORDERS)) / 5000 - 1 / 4).max() < 0.03
    assert abs(np.corrcoef(filters, orders)[0, 1]) < 0.06


def test_without_a_choice_nothing_is_chosen() -> None:
    assert chosen_filters(transforms(resize_filters=["area"]), DRAWN) == []
    assert not drawn_orders(transforms(), DRAWN).any()


def test_one_setting_leaves_the_draws_of_the_others() -> None:
    plain = replace(ALL, brightness=0.0, horizontal_flip=0.0, crop_area=(0.5, 0.5), color_order="fixed")
    assert np.array_equal(chosen_flips(plain, DRAWN)[:, 1], chosen_flips(ALL, DRAWN)[:, 1])
    for name in CHANGES[1:]:
        assert np.array_equal(drawn_changes(plain, DRAWN)[name], drawn_changes(ALL, DRAWN)[name])
    assert np.array_equal(crop_candidates(plain, DRAWN)[..., 1:], crop_candidates(ALL, DRAWN)[..., 1:])
    assert np.array_equal(chosen_filters(plain, DRAWN), chosen_filters(ALL, DRAWN))
    assert np.array_equal(drawn_orders(replace(ALL, resize_filters=["area"]), DRAWN), drawn_orders(ALL, DRAWN))


def test_no_two_things_are_drawn_from_one_number() -> None:
    drawn = [
        *chosen_flips(ALL, DRAWN).T,
        *chosen_filters(ALL, DRAWN),
        drawn_orders(ALL, DRAWN),
        *drawn_changes(ALL, DRAWN).values(),
    ]
    columns = np.stack([*drawn, *crop_candidates(ALL, DRAWN)[:, [0, 1, -1]].reshape(5000, -1).T], axis=1)
    # Standard error 0.014.
    assert np.abs(np.corrcoef(columns, rowvar=False) - np.eye(columns.shape[1])).max() < 0.07


def test_no_colour_is_no_colour() -> None:
    assert not transforms(brightness=0.0, saturation=0.0).has_colours
    for one in ({"brightness": 0.1}, {"contrast": 0.1}, {"saturation": 0.1}, {"hue_degrees": 1.0}):
        assert replace(transforms(brightness=0.0, saturation=0.0), **one).has_colours
