"""Real image files, made here: smooth shapes with texture, of several sizes, so that no test needs anything from outside."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
IMAGES = Path(__file__).parents[1] / "images"


def photo(seed: int, width: int, height: int) -> Pixels:
    """uint8 [height, width, 3]: coloured waves with a little noise; neither gray nor symmetric in any direction."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    waves = [np.sin(2 * np.pi * (rng.uniform(1, 5) * x + rng.uniform(1, 5) * y + rng.uniform())) for _ in range(3)]
    smooth = 128 + 70 * np.stack(waves, axis=-1) + 40 * (x - y)[..., None]
    return np.clip(smooth + rng.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)


SIZES = ((160, 120), (90, 150), (128, 128), (200, 75), (64, 64), (97, 131))


def fill(folder: Path, count: int, seed: int) -> None:
    """Put JPEGs of several sizes into a class folder, and a PNG in every third place."""
    folder.mkdir(parents=True)
    for i in range(count):
        width, height = SIZES[(seed + i) % len(SIZES)]
        suffix = "png" if i % 3 == 2 else "jpg"
        Image.fromarray(photo(seed + i, width, height)).save(folder / f"{i:03d}.{suffix}", quality=92)


def two_classes(root: Path) -> Path:
    """A data set of 29 training images and 7 for validation, in 2 classes: no number of either that a batch would divide."""
    for split, counts in (("train", (15, 14)), ("val", (3, 4))):
        for label, count in enumerate(counts):
            fill(root / split / f"class_{label}", count, seed=100 * label + 50 * (split == "val"))
    return root


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set to read only: 13 training images and 7 for validation, in 3 classes."""
    root = tmp_path_factory.mktemp("images")
    for split, counts in (("train", (5, 4, 4)), ("val", (3, 2, 2))):
        for label, count in enumerate(counts):
            fill(root / split / f"class_{label}", count, seed=100 * label + (10 if split == "val" else 0))
    return root


@pytest.fixture
def make_root(tmp_path: Path) -> Callable[[dict[str, Pixels]], Path]:
    """Make a data set from {path under the root: pixels}, without loss (PNG)."""

    def make(images: dict[str, Pixels]) -> Path:
        for name, pixels in images.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
        return tmp_path

    return make


@pytest.fixture(scope="session")
def torture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Damaged image files: those that image libraries test themselves with, and some made here."""
    from tests.data.damaged import damaged

    folder = Path(shutil.copytree(IMAGES / "bad", tmp_path_factory.mktemp("torture") / "bad"))
    for name, content in damaged().items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="session")
def odd_ok(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Odd image files of the same sources, all of them whole."""
    folder = Path(shutil.copytree(IMAGES / "odd", tmp_path_factory.mktemp("torture") / "odd"))
    Image.fromarray(photo(6, 128, 128)).save(folder / "bmp_inside.jpg", format="BMP")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo(7, 390, 526)).resize((3120, 4208)).save(folder / "large_turned.jpg", exif=exif)
    return folder


@pytest.fixture(scope="session")
def photographs() -> Path:
    """Sign digits: 60 colour photographs (JPEG, 100 x 100) of 10 classes, 2 of each to train on and 4 to validate on. To read only."""
    return IMAGES / "sign_digits"
