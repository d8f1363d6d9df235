"""Images resized to several sizes, for evaluations by many crops: each is read and decoded once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from inceptionctl.data import reasons
from inceptionctl.data.bad_images import BadImages
from inceptionctl.data.dataset import ImageSet
from inceptionctl.data.graphs import views
from inceptionctl.data.loaders import Decode
from inceptionctl.data.reading import SECONDS_TO_READ
from inceptionctl.data.stream import Stream


@dataclass(frozen=True)
class Picture:
    """One image in all sizes: uint8 [height, width, 3], RGB, on the loader's device; valid for as long as it is referred to."""

    height: int
    """In px, as decoded."""
    width: int
    resized: list[Tensor]
    """In the order of the shorter sides."""
    squares: dict[tuple[int, int], Tensor]
    """By the (top, left) px where they begin in the image: its squares, resized to the input."""
    label: int


class ViewLoader:
    """The images of `batches` (ranges of indices of the data set), in order; see pipelines/views.py for the sizes.

    Raises DataError that names the files when one cannot be read or decoded.
    """

    def __init__(
        self,
        dataset: ImageSet,
        batches: Sequence[range],
        *,
        shorter_sides: Sequence[int],
        squares: Sequence[str],
        input_px: int,
        interpolation: str,
        antialias: bool,
        exif_orientation: bool,
        num_threads: int,
        device_id: int | None,
        decode: Decode,
        prefetch: int = 2,
        seconds_to_read: float = SECONDS_TO_READ,
    ) -> None:
        self._squares, self._num_sides = tuple(squares), len(shorter_sides)
        batch_size = max(map(len, batches), default=1)
        self._stream = Stream(
            dataset,
            ((np.arange(batch.start, batch.stop), ()) for batch in batches),
            lambda source, size, threads, *, on_cpu=False: views(
                source,
                shorter_sides=shorter_sides,
                squares=squares,
                input_px=input_px,
                interpolation=interpolation,
                antialias=antialias,
                batch_size=size,
                num_threads=threads,
                device_id=None if on_cpu else device_id,
                decode="cpu" if on_cpu else decode,
                prefetch=prefetch if size > 1 else 1,
                most_pixels=reasons.MOST_PIXELS,
                exif_orientation=exif_orientation,
            ),
            batch_size=batch_size,
            num_threads=num_threads,
            device_id=device_id,
            decodes_on_gpu=decode == "mixed",
            bad=BadImages(),
            fill=False,
            seconds_to_read=seconds_to_read,
        )

    def __iter__(self) -> Iterator[list[Picture]]:
        """One list of pictures a batch."""
        for *images, sides, labels in self._stream.lists():
            numbers = from_dlpack(labels.as_tensor()).tolist()
            yield [self._picture(images, from_dlpack(sides[k]).tolist(), k, label) for k, label in enumerate(numbers)]

    def _picture(self, images: Sequence[Any], sides: Sequence[int], k: int, label: int) -> Picture:
        height, width = sides
        sizes = [from_dlpack(one[k]) for one in images]
        # Equal squares of a square image share one place.
        places = [square_start(name, height, width) for name in self._squares]
        squares = dict(zip(places, sizes[self._num_sides :], strict=True))
        return Picture(height, width, sizes[: self._num_sides], squares, label)

    def close(self) -> None:
        """Stop decoding and free DALI's threads and memory."""
        self._stream.close()


def square_start(name: str, height: int, width: int) -> tuple[int, int]:
    """(top, left) of the 'first' (left or top), 'middle' or 'last' square of an image, as wide as its shorter side, in px."""
    shorter = min(height, width)
    down, across = (_start(name, side - shorter) for side in (height, width))
    return down, across


def _start(name: str, room: int) -> int:
    return {"first": 0, "middle": room // 2, "last": room}[name]
