"""Photographs like ImageNet's out of larger ones: what a JPEG's statistics are decides what decoding costs."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from inceptionctl.data.imageset import SUFFIXES
from inceptionctl.errors import DataError

SIZE = (500, 375)
BYTES = 110_000  # the mean of ImageNet's training images
_QUALITIES = range(98, 60, -2)


def make_photographs(
    sources: Sequence[Path],
    folder: Path,
    count: int,
    seed: int,
    progress: Callable[[int, int], None],
    size: tuple[int, int] = SIZE,
) -> int:
    """Write `count` JPEGs of `size` (width, height) and about 110 kB: random crops of the sources in turn. Returns their bytes.

    Of other sizes than ImageNet's usual one, as many bytes a pixel.

    Each takes the highest quality from 98 down at which it is not larger than that. Sources are only ever made smaller, since
    what was enlarged is too smooth. Raises DataError when one cannot be decoded or is too small.
    """
    folder.mkdir(parents=True)
    rng, total = np.random.default_rng(seed), 0
    for i in range(count):
        progress(i, count)
        encoded = _encoded(_crop(_opened(sources[i % len(sources)], size), size, rng))
        (folder / f"{i:05d}.jpg").write_bytes(encoded)
        total += len(encoded)
    return total


def images_below(folder: Path) -> list[Path]:
    """Every image at any depth, sorted. Raises DataError when there is none."""
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder", "name one with photographs")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise DataError(f"{folder} holds no images", f"their names end in one of {' '.join(SUFFIXES)}")
    return found


def _opened(path: Path, size: tuple[int, int]) -> Image.Image:
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except OSError as fault:
        raise DataError(f"cannot decode {path}: {fault}", "take it out of the folder") from fault
    if image.width < size[0] or image.height < size[1]:
        raise DataError(f"{path} has {image.width} x {image.height} pixels", f"at least {size[0]} x {size[1]} are needed")
    return image


def _crop(image: Image.Image, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    scale = rng.uniform(1.0, min(image.width / size[0], image.height / size[1]))
    width, height = size[0] * scale, size[1] * scale
    left, top = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
    return image.resize(size, Image.Resampling.LANCZOS, box=(left, top, left + width, top + height))


def _encoded(image: Image.Image) -> bytes:
    most = BYTES * image.width * image.height // (SIZE[0] * SIZE[1])
    for quality in _QUALITIES:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        if buffer.tell() <= most:
            break
    return buffer.getvalue()
