"""Progressive resizing (Howard 2018): which batches of a training have which image size, and one loader after another for them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from inceptionctl.data.base_loader import Batch
from inceptionctl.data.loaders import TrainLoader
from inceptionctl.data.sampler import BatchSampler, batch_at

Open = Callable[[BatchSampler, int], TrainLoader]
"""The loader of these batches in images of so many px."""


def stages(batches: BatchSampler, num_samples: int, px_by_epoch: Mapping[int, int], px: int) -> list[tuple[BatchSampler, int]]:
    """`batches` cut where the size changes, each part with its size in px: that of the last epoch in `px_by_epoch` which has begun, else `px`.

    A whole batch has the size of its first place's epoch, on all ranks, wherever a training was started and whatever it has skipped.
    """
    sizes = {0: px, **px_by_epoch}
    parts = list[tuple[BatchSampler, int]]()
    for epoch in sorted(sizes, reverse=True):
        first = -(-epoch * num_samples // batches.global_batch_size)
        steps = range(batches.start_step, batches.num_steps)
        begin = batches.start_step + bisect_left(steps, first, key=lambda step: batch_at(step, batches.skipped))
        if begin < batches.num_steps:
            parts.append((replace(batches, start_step=begin), sizes[epoch]))
            batches = replace(batches, num_steps=begin)
    return parts[::-1]


class ProgressiveLoader(Iterator[Batch]):
    """The micro batches of all `stages`, each stage's loader opened when the one before it is used up."""

    def __init__(self, parts: list[tuple[BatchSampler, int]], opened: Open) -> None:
        self._parts, self._opened = iter(parts), opened
        self._loader: TrainLoader | None = None

    def __next__(self) -> Batch:
        """The next micro batch."""
        while True:
            if self._loader is None:
                self._loader = self._opened(*next(self._parts))
            try:
                return next(self._loader)
            except StopIteration:
                self.close()

    def close(self) -> None:
        """Stop decoding; batches already handed out stay valid."""
        if self._loader is not None:
            self._loader.close()
            self._loader = None


def sizes_in_words(px_by_epoch: Mapping[int, int], px: int) -> str:
    """The size of the training images by epoch, and that of the validation images."""
    first, *later = sorted({0: px, **px_by_epoch}.items())
    words = [f"of {first[1]} px", *(f"from epoch {epoch} on of {size} px" for epoch, size in later)]
    return f"{', '.join(words)}; validation images of {px} px"
