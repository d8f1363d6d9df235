"""Batches for evaluation: every image once, and the central crop against its transcription."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from inceptionctl.data.dataset import ImageFolder, open_split
from inceptionctl.data.loaders import EvalLoader
from inceptionctl.errors import DataError
from tests.data.conftest import bilinear, fill, photo


def loader(dataset: ImageFolder, **changes: Any) -> EvalLoader:
    options = {
        "input_px": 40,
        "batch_size": 2,
        "rank": 0,
        "world_size": 1,
        "num_threads": 2,
        "device_id": None,
        "decode": "cpu",
    }
    return EvalLoader(dataset, **{**options, **changes})


@pytest.mark.parametrize("ranks", [1, 2, 3, 7, 9])
def test_every_image_comes_exactly_once(root: Path, ranks: int) -> None:
    dataset = open_split(root, "val")
    whole = torch.cat([batch.images for batch in loader(dataset)])
    images, labels, counts = [], [], []
    for rank in range(ranks):
        part = loader(dataset, rank=rank, world_size=ranks)
        batches = list(part)
        assert len(batches) == len(part)
        assert [len(batch.labels) for batch in batches[:-1]] == [2] * (len(part) - 1)
        counts.append(sum(len(batch.labels) for batch in batches))
        assert counts[-1] == part.end - part.first
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
    expected = bilinear(central_crop(pixels, fraction), 40)
    # DALI resizes 8-bit images to 8 bits: half a level of rounding, and a little for its float32 weights.
    assert np.abs((made + 1) * 127.5 - expected).max() <= 0.51


def test_a_jpeg_is_decoded_as_pillow_decodes_it(tmp_path: Path) -> None:
    (tmp_path / "val/a").mkdir(parents=True)
    Image.fromarray(photo(8, 320, 240)).save(tmp_path / "val/a/0.jpg", quality=90)
    with Image.open(tmp_path / "val/a/0.jpg") as image:
        expected = bilinear(central_crop(np.array(image), 0.875), 40)
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
