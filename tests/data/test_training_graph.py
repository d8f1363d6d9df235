"""The crop that the training graph computes, against its transcription in numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from nvidia.dali import Pipeline, fn, types

from inceptionctl.data.sampler import uniforms
from inceptionctl.data.transforms import NUM_UNIFORMS, crop_candidates
from pipelines.training import crop_window, recoloured
from tests.defaults import transforms

Ints = NDArray[np.int32]


def in_graph(sizes: Ints, candidates: NDArray[np.float32]) -> tuple[Ints, Ints]:
    """(anchors, shapes) of DALI, int32 [N, 2] each."""
    count = len(sizes)
    pipe = Pipeline(batch_size=count, num_threads=2, device_id=None, prefetch_queue_depth=1, exec_dynamic=True)
    with pipe:
        size = fn.external_source(name="size", dtype=types.INT32)
        tried = fn.external_source(name="candidates", dtype=types.FLOAT)
        pipe.set_outputs(*crop_window(size, tried, candidates.shape[1]))
    anchors, shapes = pipe.run(size=list(sizes), candidates=list(candidates))
    return np.array(anchors.as_tensor()), np.array(shapes.as_tensor())


def in_numpy(size: Ints, candidates: NDArray[np.float32]) -> tuple[list[int], list[int]]:
    height, width = int(size[0]), int(size[1])
    for share, aspect, u_y, u_x in candidates:
        area = share * np.float32(height * width)
        crop_height = int(np.floor(np.sqrt(area / aspect) + np.float32(0.5)))
        crop_width = int(np.floor(np.sqrt(area * aspect) + np.float32(0.5)))
        if 1 <= crop_height <= height and 1 <= crop_width <= width:
            y = int(np.floor(u_y * np.float32(height - crop_height + 1)))
            x = int(np.floor(u_x * np.float32(width - crop_width + 1)))
            return [y, x], [crop_height, crop_width]
    return [0, 0], [height, width]


def drawn(count: int, **bounds: tuple[float, float]) -> NDArray[np.float32]:
    return crop_candidates(transforms(**bounds), uniforms(1, 0, count, NUM_UNIFORMS))  # type: ignore[arg-type]


def sizes_of(count: int) -> Ints:
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 600, (count, 3), dtype=np.int32)
    sizes[:8, :2] = [[1, 1], [1, 50], [50, 1], [2, 3], [14_000, 14_000], [33, 6000], [500, 375], [375, 500]]
    return sizes


def test_the_graph_computes_what_numpy_computes() -> None:
    sizes, candidates = sizes_of(600), drawn(600)
    anchors, shapes = in_graph(sizes, candidates)
    for i in range(600):
        assert (anchors[i].tolist(), shapes[i].tolist()) == in_numpy(sizes[i], candidates[i])


def test_the_crop_stays_inside_and_within_its_bounds() -> None:
    sizes = np.tile(np.array([[375, 500, 3]], dtype=np.int32), (2000, 1))
    anchors, shapes = in_graph(sizes, drawn(2000))
    assert (anchors >= 0).all() and (anchors + shapes <= sizes[:, :2]).all()
    area = shapes.prod(axis=1) / (375 * 500)
    aspect = shapes[:, 1] / shapes[:, 0]
    # Rounding sides to whole pixels moves the least crop (about 97 pixels a side) by less than two parts in a hundred.
    assert 0.05 * 0.98 < area.min() < 0.07 and 0.8 < area.max() <= 1.0
    assert 0.74 < aspect.min() < 0.78 and 1.29 < aspect.max() < 1.35
    # The window lies anywhere: both ends of both sides are reached, and the middle is no more likely than they are.
    room = sizes[:, :2] - shapes
    place = anchors[room.min(axis=1) > 50] / room[room.min(axis=1) > 50]
    assert (place.min(axis=0) < 0.02).all() and (place.max(axis=0) > 0.98).all()
    assert np.abs(place.mean(axis=0) - 0.5).max() < 0.03


def test_the_first_candidate_that_fits_is_taken() -> None:
    fits, too_wide = (0.5, 1.0, 0.0, 0.0), (1.0, 1.3, 0.0, 0.0)
    other = (0.2, 1.0, 0.0, 0.0)
    size = np.array([[100, 100, 3]] * 3, dtype=np.int32)
    candidates = np.array([[too_wide, fits, other], [fits, other, too_wide], [other, fits, fits]], dtype=np.float32)
    _, shapes = in_graph(size, candidates)
    assert shapes.tolist() == [[71, 71], [71, 71], [45, 45]]


def test_the_whole_image_is_taken_when_nothing_fits() -> None:
    size = np.array([[40, 600, 3]] * 4, dtype=np.int32)
    anchors, shapes = in_graph(size, drawn(4, crop_area=(0.9, 1.0)))
    assert shapes.tolist() == [[40, 600]] * 4
    assert anchors.tolist() == [[0, 0]] * 4


def test_the_last_place_is_reached_and_not_passed() -> None:
    almost_one = np.float32(1 - 2**-24)
    for side in (3, 7, 333, 9_999, 14_142):
        candidates = np.array([[[1 / 9, 1.0, almost_one, almost_one]]], dtype=np.float32)
        anchors, shapes = in_graph(np.array([[side, side, 3]], dtype=np.int32), candidates)
        assert (anchors + shapes).tolist() == [[side, side]]


def test_a_panorama_is_tried_a_hundred_times() -> None:
    # A window of the least area or more is seldom flat enough here: one try in twenty fits.
    sizes = np.tile(np.array([[100, 1000, 3]], dtype=np.int32), (1000, 1))
    candidates = drawn(1000)
    assert candidates.shape[1] == 100
    wholes = [(in_graph(sizes, part)[1] == [100, 1000]).all(axis=1).mean() for part in (candidates[:, :10].copy(), candidates)]
    assert wholes[0] > 0.4 and 0.0 < wholes[1] < 0.03


def test_both_ways_of_adding_the_mean_agree() -> None:
    # On a GPU the mean cannot be an argument of an operator; that way runs on a CPU too.
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    matrix, of_mean = (rng.normal(size=(3, 3)).astype(np.float32) for _ in range(2))
    offset = rng.normal(size=3).astype(np.float32)
    pipe = Pipeline(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1, exec_dynamic=True)
    with pipe:
        pixels = fn.external_source(name="image", dtype=types.UINT8, layout="HWC")
        maps = [fn.external_source(name=name, dtype=types.FLOAT) for name in ("matrix", "offset", "of_mean")]
        pipe.set_outputs(*[recoloured(pixels, *maps, on_gpu=on_gpu) for on_gpu in (False, True)])
    outputs = pipe.run(image=[image], matrix=[matrix], offset=[offset], of_mean=[of_mean])
    expected = image @ matrix.T + image.mean(axis=(0, 1)) @ of_mean.T + offset
    for made in outputs:
        assert np.abs(np.array(made.at(0)) - expected).max() < 1e-3
