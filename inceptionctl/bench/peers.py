"""What the data path is measured against: a plain torch DataLoader with Pillow, and libjpeg-turbo alone."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from torch.utils.data import DataLoader, Dataset, get_worker_info

from inceptionctl.data.colour import ORDERS
from inceptionctl.data.imageset import ImageSet
from inceptionctl.data.transforms import TrainTransforms

PREFETCH_FACTOR = 2  # batches ahead a worker: torch's own default

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "area": Image.Resampling.BOX,
}
_CROP_TRIES = 10  # torchvision's RandomResizedCrop


class PillowImages(Dataset[tuple[NDArray[np.float32], int]]):
    """One augmented image at a time, as such loaders are usually written: torchvision's steps, in Pillow and numpy.

    The same changes with the same ranges as ours. Colour is Pillow's own: a table for brightness, ImageEnhance for saturation and
    contrast (about the mean of the gray image), the H of HSV for hue; each change is rounded and clipped. Its filters antialias.
    """

    def __init__(self, images: ImageSet, transforms: TrainTransforms) -> None:
        self._images, self._transforms = images, transforms
        self._scale = (1.0 / (255.0 * np.asarray(transforms.std))).astype(np.float32)
        self._offset = (np.asarray(transforms.mean) / np.asarray(transforms.std)).astype(np.float32)
        self._rng: np.random.Generator | None = None

    def __getitem__(self, i: int) -> tuple[NDArray[np.float32], int]:
        """float32 [input_px, input_px, 3], (value in [0, 1] - mean) / std, and the label."""
        if self._rng is None:
            worker = get_worker_info()
            self._rng = np.random.default_rng(worker.seed if worker else 0)
        image: Image.Image = Image.open(io.BytesIO(self._images.read(i)))
        image = self._coloured(self._flipped(self._cropped(image.convert("RGB"), self._rng), self._rng), self._rng)
        return np.asarray(image) * self._scale - self._offset, int(self._images.labels[i])

    def _cropped(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        names = self._transforms.resize_filters
        size, kind = (self._transforms.input_px,) * 2, _FILTERS[names[int(rng.integers(len(names)))]]
        return image.crop(_window(image.width, image.height, self._transforms, rng)).resize(size, kind)

    def _flipped(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        if rng.random() < self._transforms.horizontal_flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if rng.random() < self._transforms.vertical_flip:
            image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        return image

    def _coloured(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        wanted = self._transforms
        ranges = {"contrast": wanted.contrast, "saturation": wanted.saturation}
        for change in ORDERS[0 if wanted.color_order == "fixed" else int(rng.integers(len(ORDERS)))]:
            if change == "brightness" and wanted.brightness:
                shift = 255.0 * rng.uniform(-wanted.brightness, wanted.brightness)
                image = image.point([min(max(round(value + shift), 0), 255) for value in range(256)] * 3)
            elif change == "hue" and wanted.hue_degrees:
                hue, *others = image.convert("HSV").split()
                turn = round(rng.uniform(-wanted.hue_degrees, wanted.hue_degrees) / 360.0 * 256.0)
                image = Image.merge("HSV", (hue.point([(i + turn) % 256 for i in range(256)]), *others)).convert("RGB")
            elif ranges.get(change):
                enhancer = ImageEnhance.Color(image) if change == "saturation" else ImageEnhance.Contrast(image)
                image = enhancer.enhance(rng.uniform(1.0 - ranges[change], 1.0 + ranges[change]))
        return image


def _window(width: int, height: int, wanted: TrainTransforms, rng: np.random.Generator) -> tuple[int, int, int, int]:
    low, high = map(math.log, wanted.crop_aspect)
    for _ in range(_CROP_TRIES):
        area, aspect = width * height * rng.uniform(*wanted.crop_area), math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    return 0, 0, width, height


def pillow_batches(images: PillowImages, count: int, batch_size: int, num_workers: int) -> Iterator[Any]:
    """Batches of the first `count` images without end, shuffled anew for each pass, from `num_workers` processes."""

    class Endless:
        def __iter__(self) -> Iterator[list[int]]:
            for epoch in itertools.count():
                order = np.random.default_rng(epoch).permutation(count)
                yield from (part.tolist() for part in np.split(order, range(batch_size, count, batch_size)))

    # Workers must not be forked from a process in which DALI's threads run.
    loader = DataLoader(
        images,
        batch_sampler=Endless(),
        num_workers=num_workers,
        prefetch_factor=PREFETCH_FACTOR,
        multiprocessing_context="forkserver",
    )
    for pixels, labels in loader:
        yield pixels.permute(0, 3, 1, 2), labels


def turbo_round(encoded: Sequence[bytes], num_threads: int) -> tuple[Callable[[], None], ThreadPoolExecutor]:
    """A round of decoding whole JPEGs that lie in memory by simplejpeg's libjpeg-turbo, and the threads that do it.

    Raises ImportError where simplejpeg is not installed.
    """
    import simplejpeg

    pool = ThreadPoolExecutor(num_threads)

    def decode(part: Sequence[bytes]) -> None:
        for image in part:
            simplejpeg.decode_jpeg(image)

    parts = [encoded[i::num_threads] for i in range(num_threads)]
    return lambda: list(pool.map(decode, parts)).clear(), pool


def is_jpeg(encoded: bytes) -> bool:
    """Whether it begins as a JPEG does."""
    return encoded.startswith(b"\xff\xd8\xff")


torch.multiprocessing.set_forkserver_preload([__name__])
