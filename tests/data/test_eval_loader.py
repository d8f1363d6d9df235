"""Batches for evaluation: every image once, and the central crop against its transcription."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from nvidia.dali import Pipeline, fn, types
from PIL import Image

from inceptionctl.data.bad_images import BadImages
from inceptionctl.data.dataset import ImageSet, open_split
from inceptionctl.data.loader_settings import LoaderSettings
from inceptionctl.data.loaders import EvalLoader, share_in_batches
from inceptionctl.errors import DataError
from pipelines.evaluation import middle_window
from tests.data.conftest import fill, photo
from tests.data.resampling import middle, middle_square, middle_square_by_pillow, resampled, resized_sides
from tests.defaults import preparation


def loader(
    dataset: ImageSet, *, batch_size: int = 2, rank: int = 0, world_size: int = 1, bad: BadImages | None = None, **changes: Any
) -> EvalLoader:
    """`changes` are fields of the settings or the preparation."""
    kinds = {field.name for field in fields(LoaderSettings)}
    settings = {"num_threads": 2, "seconds_to_read": 60.0, **{key: changes.pop(key) for key in kinds & {*changes}}}
    batches = share_in_batches(len(dataset), batch_size, rank, world_size)
    return EvalLoader(dataset, batches, preparation(**{"input_px": 40, **changes}), LoaderSettings(**settings), bad=bad)


@pytest.mark.parametrize("ranks", [1, 2, 3, 7, 9])
def test_every_image_comes_exactly_once(root: Path, ranks: int) -> None:
    dataset = open_split(root, "val")
    whole = torch.cat([batch.images for batch in loader(dataset)])
    images, labels, counts = [], [], []
    for rank in range(ranks):
        batches = list(loader(dataset, rank=rank, world_size=ranks))
        assert [len(batch.labels) for batch in batches[:-1]] == [2] * (len(batches) - 1)
        counts.append(sum(len(batch.labels) for batch in batches))
        images += [batch.images for batch in batches]
        labels += [batch.labels for batch in batches]
    assert max(counts) - min(counts) <= 1
    assert torch.cat(labels).tolist() == dataset.labels.tolist() == [0, 0, 0, 1, 1, 2, 2]
    # Same places, same pixels, whatever the batches: so no image stands in for another.
    assert torch.equal(torch.cat(images), whole)
    assert len({image.numpy().tobytes() for image in whole}) == len(dataset)


def test_a_batch_has_the_promised_form(root: Path) -> None:
    batch = next(loader(open_split(root, "val"), batch_size=4))
    assert batch.images.shape == (4, 3, 40, 40) and batch.images.dtype == torch.float32
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.labels.dtype == torch.int64
    assert batch.images.min() >= -1.0 and batch.images.max() <= 1.0


def levels(image: torch.Tensor) -> NDArray[np.float32]:
    """[px, px, 3] in 0..255."""
    return (image.permute(1, 2, 0).numpy() + 1) * 127.5


def central_crop(pixels: NDArray[np.uint8], fraction: float) -> NDArray[np.uint8]:
    """tf.image.central_crop: the margin is int((side - side * fraction) / 2), the same on both sides."""
    margins = [int((side - side * fraction) / 2) for side in pixels.shape[:2]]
    return pixels[margins[0] : pixels.shape[0] - margins[0], margins[1] : pixels.shape[1] - margins[1]]


@pytest.mark.parametrize("size", [(160, 120), (75, 200), (33, 31), (40, 40), (500, 375), (17, 90)])
@pytest.mark.parametrize("fraction", [0.875, 1.0, 0.6])
def test_the_central_crop_is_tf_slims(make_root: Callable[..., Path], size: tuple[int, int], fraction: float) -> None:
    pixels = photo(7, *size)
    dataset = open_split(make_root({"val/a/0.png": pixels}), "val")
    made = next(loader(dataset, central_fraction=fraction)).images[0].permute(1, 2, 0).numpy()
    expected = resampled(central_crop(pixels, fraction), 40, "bilinear")
    # DALI resizes 8-bit images to 8 bits: half a level of rounding, and a little for its float32 weights.
    assert np.abs((made + 1) * 127.5 - expected).max() <= 0.51


# DALI resizes 8-bit images to 8 bits: half a level of rounding, and a little for its float32 weights and tabulated kernels.
ROUNDING = 0.6


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("name", ["bilinear", "bicubic", "lanczos"])
def test_filters_are_what_they_are_called(make_root: Callable[..., Path], name: str, antialias: bool) -> None:
    pixels = photo(7, 160, 120)
    dataset = open_split(make_root({"val/a/0.png": pixels}), "val")
    options = {"interpolation": name, "antialias": antialias, "central_fraction": 0.8}
    made = levels(next(loader(dataset, **options)).images[0])
    assert np.abs(made - resampled(central_crop(pixels, 0.8), 40, name, antialias=antialias)).max() <= ROUNDING
    # The test can tell with from without.
    assert np.abs(made - resampled(central_crop(pixels, 0.8), 40, name, antialias=not antialias)).max() > 2
    kept = levels(next(loader(dataset, keep_aspect=True, **options)).images[0])
    assert np.abs(kept - middle_square(pixels, 40, 0.8, name, antialias=antialias)).max() <= ROUNDING


@pytest.mark.parametrize(
    "size", [(160, 120), (75, 200), (33, 31), (40, 40), (500, 375), (17, 90), (91, 333), (333, 91), (63, 47)]
)
@pytest.mark.parametrize("fraction", [0.875, 1.0, 0.6, 0.8975])
@pytest.mark.parametrize("px", [39, 40])
def test_the_middle_square_is_timms(make_root: Callable[..., Path], size: tuple[int, int], fraction: float, px: int) -> None:
    pixels = photo(7, *size)
    dataset = open_split(make_root({"val/a/0.png": pixels}), "val")
    options = {"input_px": px, "keep_aspect": True, "interpolation": "bicubic", "antialias": True}
    made = levels(next(loader(dataset, central_fraction=fraction, **options)).images[0])
    assert np.abs(made - middle_square(pixels, px, fraction, "bicubic", antialias=True)).max() <= ROUNDING


def test_the_middle_square_is_found_as_torchvision_finds_it() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 5000, (400, 3), dtype=np.int32)
    for px, shorter in ((299, 341), (299, 333), (40, 45), (331, 331)):
        pipe = Pipeline(batch_size=400, num_threads=1, device_id=None, prefetch_queue_depth=1, exec_dynamic=True)
        with pipe:
            pipe.set_outputs(*middle_window(fn.external_source(name="size", dtype=types.INT32)[:2], px, shorter))
        starts, ends = (np.array(part.as_tensor()) for part in pipe.run(size=list(sizes)))
        for (height, width, _), start, end in zip(sizes.tolist(), starts, ends, strict=True):
            sides = resized_sides(height, width, shorter)
            scale = np.array([height, width]) / sides
            assert start == pytest.approx(middle(*sides, px) * scale, rel=1e-5, abs=1e-4)
            assert end == pytest.approx((np.array(middle(*sides, px)) + px) * scale, rel=1e-5)


@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
def test_photographs_are_prepared_as_timm_prepares_them(photographs: Path, name: str) -> None:
    dataset = open_split(photographs, "val")
    options = {"input_px": 75, "keep_aspect": True, "interpolation": name, "antialias": True, "batch_size": 40}
    images = next(loader(dataset, **options)).images
    apart = []
    for i, image in enumerate(images):
        with Image.open(dataset.path(i).decode()) as picture:
            pixels = np.array(picture.convert("RGB"))
        apart.append(np.abs(levels(image) - middle_square_by_pillow(pixels, 75, 0.875, name)))
    # Pillow rounds to 8 bits after each axis, and clips what bicubic overshoots there.
    assert np.mean(apart) < 0.3 and np.percentile(apart, 99.9) < 1.01 and np.max(apart) < (1.01 if name == "bilinear" else 16)


def test_mean_and_std_are_applied_by_channel(make_root: Callable[..., Path]) -> None:
    dataset = open_split(make_root({"val/a/0.png": photo(7, 160, 120)}), "val")
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    plain = (next(loader(dataset)).images + 1) / 2
    made = next(loader(dataset, mean=mean, std=std)).images
    expected = (plain - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    assert (made - expected).abs().max() < 1e-5


def test_a_jpeg_is_decoded_as_pillow_decodes_it(tmp_path: Path) -> None:
    (tmp_path / "val/a").mkdir(parents=True)
    Image.fromarray(photo(8, 320, 240)).save(tmp_path / "val/a/0.jpg", quality=90)
    with Image.open(tmp_path / "val/a/0.jpg") as image:
        expected = resampled(central_crop(np.array(image), 0.875), 40, "bilinear")
    made = next(loader(open_split(tmp_path, "val"))).images[0].permute(1, 2, 0).numpy()
    # The same libjpeg-turbo with the same settings in both: nothing but the rounding of the resize.
    assert np.abs((made + 1) * 127.5 - expected).max() <= 1.01


def test_a_bad_file_is_named(tmp_path: Path) -> None:
    fill(tmp_path / "val/a", 5, seed=1)
    (tmp_path / "val/a/003.jpg").write_bytes((tmp_path / "val/a/003.jpg").read_bytes()[:500])
    batches = loader(open_split(tmp_path, "val"))
    assert len(next(batches).labels) == 2
    with pytest.raises(DataError, match=r"cannot decode \S*val/a/003\.jpg: "):
        list(batches)


def test_a_closed_loader_gives_nothing(root: Path) -> None:
    closed = loader(open_split(root, "val"))
    closed.close()
    assert list(closed) == []
