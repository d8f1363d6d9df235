"""The last steps on a CPU by themselves: the map of each image, memory that is used again, errors in their turn."""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from nvidia.dali import tensors

from inceptionctl.data.colour import limits
from inceptionctl.data.cpu_transforms import Changes, Finished
from inceptionctl.errors import DataError
from tests.data.conftest import photo

PX = 47  # not a multiple of 4 in its square: the last row of pixels of a product is cut short
RNG = np.random.default_rng(3)
MATRIX = (RNG.normal(0, 1.5, (6, 3, 3)) / 255).astype(np.float32)
OFFSET = RNG.normal(0, 0.3, (6, 3)).astype(np.float32)
OF_MEAN = (RNG.normal(0, 1.5, (6, 3, 3)) / 255).astype(np.float32)
IMAGES = np.stack([photo(i, PX, PX) for i in range(6)])


def batches(images: Any = IMAGES, end: Exception | None = None, count: int = 2) -> Iterator[Any]:
    for _ in range(count):
        yield tensors.TensorListCPU(images, layout="HWC"), tensors.TensorListCPU(np.arange(len(images)))
    if end:
        raise end


def finished(
    maps: tuple[Any, ...],
    *,
    std: tuple[float, ...] = (0.5,) * 3,
    num_threads: int = 2,
    dtype: torch.dtype = torch.float32,
    **source: Any,
) -> Finished:
    bounds = limits((0.5,) * 3, std)
    endless = iter(lambda: Changes(np.zeros((len(maps[0]), 2), dtype=bool), *maps), None)
    options = {"input_px": PX, "resize": False, "limits": bounds, "num_threads": num_threads, "dtype": dtype}
    return Finished(batches(**source), endless, **options)


@pytest.mark.parametrize("std", [(0.5, 0.5, 0.5), (0.5, 0.25, 0.8)])
@pytest.mark.parametrize("of_mean", [np.zeros_like(OF_MEAN), OF_MEAN])
def test_each_pixel_is_mapped_and_kept_within_the_limits(of_mean: Any, std: tuple[float, ...]) -> None:
    pixels, labels = next(finished((MATRIX, OFFSET, of_mean), std=std))
    x = IMAGES.astype(np.float64)
    mean = x.mean(axis=(1, 2))
    expected = np.einsum("nij,nyxj->nyxi", MATRIX, x) + (OFFSET + np.einsum("nij,nj->ni", of_mean, mean))[:, None, None]
    low, high = np.array(limits((0.5,) * 3, std)).T
    assert (expected < low).any() and (expected > high).any()
    assert np.abs(pixels.numpy() - np.clip(expected, low, high)).max() < 1e-5
    assert labels.tolist() == list(range(6))


def test_bits_depend_neither_on_threads_nor_on_neighbours() -> None:
    maps = (MATRIX, OFFSET, OF_MEAN)
    together = next(finished(maps, num_threads=3))[0]
    for i in range(6):
        alone = finished(tuple(part[i : i + 1] for part in maps), images=IMAGES[i : i + 1], num_threads=1)
        assert torch.equal(next(alone)[0][0], together[i])


@pytest.mark.parametrize("std", [(0.5, 0.5, 0.5), (0.5, 0.25, 0.8)])
def test_bfloat16_is_what_autocast_makes_of_float32(std: tuple[float, ...]) -> None:
    maps = (MATRIX, OFFSET, OF_MEAN)
    pixels = next(finished(maps, std=std, dtype=torch.bfloat16))[0]
    assert torch.equal(pixels, next(finished(maps, std=std))[0].bfloat16())


def test_no_thread_starts_others() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        images = np.stack([photo(i, 200, 200) for i in range(6)])  # enough values for torch to share them out
        flips = np.ones((6, 2), dtype=bool)
        changes = iter(lambda: Changes(flips, MATRIX, OFFSET, OF_MEAN), None)
        options = {"input_px": 200, "resize": False, "limits": limits((0.5,) * 3, (0.5,) * 3), "num_threads": 3}
        stream = Finished(batches(images), changes, **options)
        threads = psutil.Process().num_threads()
        next(stream)
        assert psutil.Process().num_threads() == threads
        # Nobody else notices, neither this thread nor those to come.
        found = []
        other = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        other.start()
        other.join()
        assert (torch.get_num_threads(), *found) == (2, 2)
    finally:
        torch.set_num_threads(before)


def test_a_batch_that_is_held_is_never_written_into_again() -> None:
    stream = finished((MATRIX, OFFSET, OF_MEAN), count=9)
    held = [next(stream)[0][:, :, 3:] for _ in range(4)]  # a part of it holds all of its memory
    before = [part.clone() for part in held]
    for part in held:
        part.fill_(7.0)
    for _ in range(5):
        next(stream)
    assert all((part == 7.0).all() for part in held)
    assert not any((part == 7.0).any() for part in before)


def test_memory_that_nobody_holds_is_used_again() -> None:
    stream = finished((MATRIX, OFFSET, OF_MEAN), count=20)
    places = {next(stream)[0].data_ptr() for _ in range(20)}
    assert len(places) <= 3


def test_an_error_comes_in_its_turn_and_ends_it() -> None:
    stream = finished((MATRIX, OFFSET, OF_MEAN), end=DataError("the third is bad"))
    next(stream), next(stream)
    with pytest.raises(DataError, match="the third"):
        next(stream)
    with pytest.raises(StopIteration):
        next(stream)


def test_it_ends_with_its_source_and_when_it_is_closed() -> None:
    stream = finished((MATRIX, OFFSET, OF_MEAN))
    next(stream), next(stream)
    with pytest.raises(StopIteration):
        next(stream)
    stream = finished((MATRIX, OFFSET, OF_MEAN), count=9)
    kept = next(stream)[0].clone()
    stream.close()
    assert torch.isfinite(kept).all()
    with pytest.raises(StopIteration):
        next(stream)
