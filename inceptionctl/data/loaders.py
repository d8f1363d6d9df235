"""Batches for training and evaluation: our order and draws go in, DALI reads and decodes, torch tensors come out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from inceptionctl.data import reasons
from inceptionctl.data.augment import NUM_CANDIDATES, NUM_UNIFORMS, Augmentation, chosen_filters, crop_candidates, flips
from inceptionctl.data.bad_images import BadImages
from inceptionctl.data.colour import colour_maps, limits, normalised
from inceptionctl.data.dataset import ImageSet
from inceptionctl.data.graphs import evaluation, training
from inceptionctl.data.order import SampleOrder, uniforms
from inceptionctl.data.reading import SECONDS_TO_READ, Encoded, ReadAhead
from inceptionctl.data.trial import Trial
from inceptionctl.errors import DataError, EnvironmentFault

__all__ = ["Augmentation", "Batch", "EvalLoader", "TrainLoader"]

Decode = Literal["cpu", "mixed"]
Inputs = tuple[Any, ...]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """Images with their labels, on the loader's device; valid for as long as they are referred to."""

    images: Tensor
    """float32 [N, 3, px, px], RGB, (value in [0, 1] - mean) / std, in channels_last memory format."""
    labels: Tensor
    """int64 [N]."""


class TrainLoader:
    """The micro batches of one rank from `start_step` up to `num_steps` (exclusive), then it stops.

    Step s takes the places [s * B, (s + 1) * B) of the endless stream, with B the global batch; rank r of R takes the r-th of
    R equal slices of them, cut into micro batches in order. An image is a pure function of (seed, place): its pixels are the
    same to the bit for any number of ranks and threads, any micro batch, and any step that the loader was started at.

    An image that cannot be read within `seconds_to_read`, or not decoded, is noted in `bad`, and its place is filled with the first
    image after it in the data set that can (label and all, with the place's own draws): the same for everyone who gets to the place.

    `device_id` None keeps everything on the CPU. Raises ValueError when the batch does not split, and, while iterating, DataError
    that names the files when more are bad than `bad` bears (none by default).
    """

    def __init__(
        self,
        dataset: ImageSet,
        *,
        seed: int,
        input_px: int,
        augmentation: Augmentation,
        global_batch_size: int,
        micro_batch_size: int,
        rank: int,
        world_size: int,
        start_step: int,
        num_steps: int,
        num_threads: int,
        device_id: int | None,
        decode: Decode,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        prefetch: int = 2,
        bad: BadImages | None = None,
        seconds_to_read: float = SECONDS_TO_READ,
        exif_orientation: bool = True,
    ) -> None:
        share, rest = divmod(global_batch_size, world_size)
        if rest or share % micro_batch_size:
            raise ValueError(
                f"a batch of {global_batch_size} does not split into {world_size} ranks of micro batches of {micro_batch_size}"
            )
        self._dataset = dataset
        self._order = SampleOrder(seed, len(dataset))
        self._augmentation = augmentation
        self._mean, self._std = mean, std
        self._micro = micro_batch_size
        slices = (step * global_batch_size + rank * share for step in range(start_step, num_steps))
        starts = (start + offset for start in slices for offset in range(0, share, micro_batch_size))
        self._stream = _Stream(
            dataset,
            (self._inputs(start) for start in starts),
            lambda source, size, threads: training(
                source,
                input_px=input_px,
                num_candidates=NUM_CANDIDATES,
                batch_size=size,
                num_threads=threads,
                device_id=device_id,
                decode=decode,
                resize_filters=augmentation.resize_filters,
                horizontal_flip=augmentation.horizontal_flip > 0.0,
                vertical_flip=augmentation.vertical_flip > 0.0,
                colours=augmentation.has_colours,
                contrast=augmentation.contrast > 0.0,
                mean=mean,
                std=std,
                prefetch=prefetch if size > 1 else 1,
                most_pixels=reasons.MOST_PIXELS,
                exif_orientation=exif_orientation,
            ),
            batch_size=micro_batch_size,
            num_threads=num_threads,
            device_id=device_id,
            bad=BadImages() if bad is None else bad,
            fill=True,
            seconds_to_read=seconds_to_read,
            limits=limits(mean, std) if augmentation.has_colours else None,
        )

    def _inputs(self, start: int) -> tuple[Indices, Inputs]:
        # Drawn for the whole batch at once: sample by sample in Python costs a quarter of the throughput of two cores.
        _, index = self._order.at(start, self._micro)
        drawn = uniforms(self._order.seed, start, self._micro, NUM_UNIFORMS)
        candidates = crop_candidates(self._augmentation, drawn)
        choices = (*chosen_filters(self._augmentation, drawn), *flips(self._augmentation, drawn))
        return index, (candidates, *choices, *self._colours(drawn))

    def _colours(self, drawn: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        if not self._augmentation.has_colours:
            return ()
        maps = normalised(colour_maps(self._augmentation, drawn), self._mean, self._std)
        return maps if self._augmentation.contrast > 0.0 else maps[:2]

    def __iter__(self) -> Iterator[Batch]:
        """Itself: a loader is used up once."""
        return self

    def __next__(self) -> Batch:
        """The next micro batch."""
        return next(self._stream)

    def close(self) -> None:
        """Stop decoding and free DALI's threads and memory; batches already handed out stay valid."""
        self._stream.close()


class EvalLoader:
    """Every image of a split exactly once over all ranks, in order: rank r has the r-th of `world_size` contiguous ranges.

    The ranges differ by at most one image, so ranks may differ by one in their number of batches (`len`): no collective
    operation belongs into the loop. The last batch is as short as it comes. Raises DataError that names the files when more are bad
    than `bad` bears (none by default); those are left out, so that batches are shorter, or fewer.
    """

    def __init__(
        self,
        dataset: ImageSet,
        *,
        input_px: int,
        central_fraction: float = 0.875,
        keep_aspect: bool = False,
        interpolation: str = "bilinear",
        antialias: bool = False,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        batch_size: int,
        rank: int,
        world_size: int,
        num_threads: int,
        device_id: int | None,
        decode: Decode,
        prefetch: int = 2,
        bad: BadImages | None = None,
        seconds_to_read: float = SECONDS_TO_READ,
        exif_orientation: bool = True,
    ) -> None:
        self.first = rank * len(dataset) // world_size
        """Index in the data set of this rank's first image; its images follow one another."""
        self.end = (rank + 1) * len(dataset) // world_size
        self._batch_size = batch_size
        indices = (np.arange(start, min(start + batch_size, self.end)) for start in range(self.first, self.end, batch_size))
        self._stream = _Stream(
            dataset,
            ((index, ()) for index in indices),
            lambda source, size, threads: evaluation(
                source,
                input_px=input_px,
                central_fraction=central_fraction,
                keep_aspect=keep_aspect,
                interpolation=interpolation,
                antialias=antialias,
                mean=mean,
                std=std,
                batch_size=size,
                num_threads=threads,
                device_id=device_id,
                decode=decode,
                prefetch=prefetch if size > 1 else 1,
                most_pixels=reasons.MOST_PIXELS,
                exif_orientation=exif_orientation,
            ),
            batch_size=batch_size,
            num_threads=num_threads,
            device_id=device_id,
            bad=BadImages() if bad is None else bad,
            fill=False,
            seconds_to_read=seconds_to_read,
        )

    def __len__(self) -> int:
        """Number of batches of this rank."""
        return -(-(self.end - self.first) // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Itself: a loader is used up once."""
        return self

    def __next__(self) -> Batch:
        """The next batch."""
        return next(self._stream)

    def close(self) -> None:
        """Stop decoding and free DALI's threads and memory; batches already handed out stay valid."""
        self._stream.close()


@dataclass(frozen=True)
class _Fed:
    """One batch on its way through the pipeline."""

    index: Indices
    encoded: Sequence[Encoded | str]
    """Images as they are stored, or why one could not be read."""
    inputs: Inputs
    """What the graph takes besides, of as many images."""

    def one(self, k: int, label: NDArray[np.int64], encoded: Encoded) -> Inputs:
        """A batch of one: the k-th image's inputs, with whatever image."""
        return [encoded], label, *(values[k : k + 1] for values in self.inputs)


class _Stream:
    """Feeds one pipeline from an iterator of (indices, inputs after image and label) and knows which images are inside it.

    When the pipeline raises, the images inside it are tried one by one, and a new pipeline goes on from there without the bad ones.
    """

    def __init__(
        self,
        dataset: ImageSet,
        inputs: Iterator[tuple[Indices, Inputs]],
        build: Callable[[Callable[[], Inputs], int, int], Any],
        *,
        batch_size: int,
        num_threads: int,
        device_id: int | None,
        bad: BadImages,
        fill: bool,
        seconds_to_read: float,
        limits: Sequence[tuple[float, float]] | None = None,
    ) -> None:
        self._dataset = dataset
        self._ahead = ReadAhead(dataset, inputs, seconds=seconds_to_read)
        self._limits = limits
        self._device_id = device_id
        self._bad = bad
        self._fill = fill
        self._in_flight: deque[_Fed] = deque()
        self._again: deque[_Fed] = deque()
        self._failed_for_no_reason = False
        self._build = partial(build, self._feed, batch_size, num_threads)
        self._trial = Trial(lambda source: build(source, 1, 1))
        self._pipe: Any = self._build()

    def _feed(self) -> Inputs:
        # DALI calls this inside run(), in the thread of the caller; StopIteration of the iterator is the end it waits for.
        fed = self._again.popleft() if self._again else self._next_batch()
        self._in_flight.append(fed)
        return fed.encoded, self._labels(fed.index), *fed.inputs

    def _labels(self, index: Indices | list[int]) -> NDArray[np.int64]:
        return self._dataset.labels[index].astype(np.int64)

    def _next_batch(self) -> _Fed:
        while True:
            fed = _Fed(*next(self._ahead))
            # An image that was bad at another place is tried before it can spoil a batch once more.
            doubtful = [k for k, image in enumerate(fed.encoded) if isinstance(image, str) or self._was_bad(fed.index[k])]
            fed = self._without_bad(fed, doubtful)
            if len(fed.index):
                return fed

    def _was_bad(self, i: int) -> bool:
        return len(self._bad) > 0 and self._dataset.name(i) in self._bad

    def __next__(self) -> Batch:
        images, labels = self._run()
        self._in_flight.popleft()
        self._failed_for_no_reason = False
        # Not copied: under DALI's dynamic executor an output belongs to whoever holds it. HWC seen as CHW is channels_last.
        pixels = from_dlpack(images.as_tensor()).permute(0, 3, 1, 2)
        if self._limits:
            _clamp(pixels, self._limits)
        return Batch(pixels, from_dlpack(labels.as_tensor()))

    def _run(self) -> Any:
        while self._pipe is not None:
            try:
                return self._pipe.run(self._consumer())
            except RuntimeError as fault:
                self._pipe = None
                self._recover(fault)
            except BaseException:  # the end, or too many bad images
                self.close()
                raise
        raise StopIteration

    def _recover(self, fault: RuntimeError) -> None:
        """Find the bad images among those that are inside the pipeline, and build it anew to go on with the others."""
        batches, self._in_flight = list(self._in_flight), deque()
        found = [self._without_bad(fed, range(len(fed.index))) for fed in batches]
        if all(one is other for one, other in zip(batches, found, strict=True)):
            # Perhaps it was the machine's fault and has passed; twice on end it has not.
            if self._failed_for_no_reason:
                self.close()
                raise EnvironmentFault(
                    f"the image pipeline failed, though every file in it decodes alone: {reasons.essence(str(fault))}",
                    "memory may have run out: lower train.micro_batch_size or data.num_threads",
                ) from fault
            self._failed_for_no_reason = True
        self._again.extendleft(fed for fed in reversed(found) if len(fed.index))
        self._pipe = self._build()

    def _without_bad(self, fed: _Fed, doubtful: Sequence[int]) -> _Fed:
        """The batch with those of the doubtful images replaced, or left out, that the graph does not take; itself if there are none."""
        bad = [k for k in doubtful if self._is_bad(fed, k, int(fed.index[k]), fed.encoded[k])]
        self._bad.check(self._dataset.root)
        if not bad:
            return fed
        if self._fill:
            return self._filled(fed, bad)
        kept = np.setdiff1d(np.arange(len(fed.index)), bad)
        return _Fed(fed.index[kept], [fed.encoded[k] for k in kept], tuple(values[kept] for values in fed.inputs))

    def _is_bad(self, fed: _Fed, k: int, i: int, image: Encoded | str) -> bool:
        reason = image if isinstance(image, str) else self._trial.fault(fed.one(k, self._labels([i]), image))
        if reason is not None:
            self._bad.note(self._dataset.name(i), reason)
        return reason is not None

    def _filled(self, fed: _Fed, bad: Sequence[int]) -> _Fed:
        index, encoded = fed.index.copy(), list(fed.encoded)
        for k in bad:
            index[k], encoded[k] = self._substitute(fed, k)
        return replace(fed, index=index, encoded=encoded)

    def _substitute(self, fed: _Fed, k: int) -> tuple[int, Encoded]:
        # Those that follow in the data set are mostly of the same class.
        for i in (np.arange(1, len(self._dataset)) + fed.index[k]) % len(self._dataset):
            image = self._ahead.read(int(i))
            if not isinstance(image, str) and not self._is_bad(fed, k, int(i), image):
                return int(i), image
            self._bad.check(self._dataset.root)
        raise DataError(f"no image of {self._dataset.folder} can be decoded", "`inceptionctl data check` says why")

    def _consumer(self) -> Any:
        # On a GPU the outputs are ordered into torch's stream and the host does not wait for them.
        return None if self._device_id is None else torch.cuda.current_stream(self._device_id)

    def close(self) -> None:
        self._pipe = None
        self._ahead.close()


def _clamp(pixels: Tensor, limits: Sequence[tuple[float, float]]) -> None:
    """Keep each channel of [N, 3, px, px] within its limits, in place; in one go where they are all the same."""
    if len(set(limits)) == 1:
        pixels.clamp_(*limits[0])
        return
    for channel, bounds in enumerate(limits):
        pixels[:, channel].clamp_(*bounds)
