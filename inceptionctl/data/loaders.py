"""Batches for training and evaluation: our order and draws go in, DALI reads and decodes, torch tensors come out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from inceptionctl.data import reasons
from inceptionctl.data.augment import (
    COLOUR_ORDER,
    NUM_CANDIDATES,
    NUM_UNIFORMS,
    Augmentation,
    chosen_filters,
    chosen_flips,
    crop_candidates,
)
from inceptionctl.data.bad_images import BadImages
from inceptionctl.data.colour import colour_maps, limits, normalised
from inceptionctl.data.dataset import ImageSet
from inceptionctl.data.finishing import Finished
from inceptionctl.data.graphs import evaluation, training
from inceptionctl.data.order import batch_at, uniforms
from inceptionctl.data.reading import SECONDS_TO_READ
from inceptionctl.data.recolouring import Changes
from inceptionctl.data.shared_order import sample_order
from inceptionctl.data.stream import Batch, Indices, Inputs, Stream

__all__ = ["Augmentation", "Batch", "EvalLoader", "TrainLoader"]

Decode = Literal["cpu", "mixed"]


class TrainLoader:
    """The micro batches of one rank from `start_step` up to `num_steps` (exclusive), then it stops.

    Step s takes the places [s * B, (s + 1) * B) of the endless stream, with B the global batch; where batches are `skipped`, those of
    batch `batch_at(s, skipped)`. Rank r of R takes the r-th of R equal slices of them, cut into micro batches in order. An image is a
    pure function of (seed, place): its pixels are the same to the bit for any number of ranks and threads, any micro batch, and any
    step that the loader was started at.

    An image that cannot be read within `seconds_to_read`, or not decoded, is noted in `bad`, and its place is filled with the first
    image after it in the data set that can (label and all, with the place's own draws): the same for everyone who gets to the place.

    `device_id` None keeps everything on the CPU, where data/finishing.py takes the last steps. Raises ValueError when the batch
    does not split, and, while iterating, DataError that names the files when more are bad than `bad` bears (none by default), and
    EnvironmentFault when the machine fails: its GPU, or its memory.

    With `decode_roi` only the crop of an image is decoded, else all of it: the same pixels on a CPU, where the first is faster.

    `dtype` float32, or on a CPU bfloat16: what a network under autocast makes of its input anyway, in half the memory.

    `until` stops early, to measure a part: after 'read' or 'decode', when there are only `lists`, or after 'resize', when the values
    of a batch mean nothing yet.
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
        decode_roi: bool,
        skipped: Sequence[tuple[int, int]] = (),
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        prefetch: int = 2,
        bad: BadImages | None = None,
        seconds_to_read: float = SECONDS_TO_READ,
        exif_orientation: bool = True,
        dtype: torch.dtype = torch.float32,
        until: str = "all",
    ) -> None:
        share, rest = divmod(global_batch_size, world_size)
        if rest or share % micro_batch_size:
            raise ValueError(
                f"a batch of {global_batch_size} does not split into {world_size} ranks of micro batches of {micro_batch_size}"
            )
        self._dataset = dataset
        self._order = sample_order(seed, len(dataset))
        self._augmentation = augmentation
        self._mean, self._std = mean, std
        self._micro = micro_batch_size
        on_gpu = device_id is not None
        # torch's 8-bit kernel has no other filter that is DALI's.
        resized_by_torch = not on_gpu and list(augmentation.resize_filters) == ["bilinear"]
        end = until if on_gpu or until in ("read", "decode") else "decode" if resized_by_torch else "resize"
        self._in_graph = augmentation if on_gpu else augmentation.of_crop_alone()

        def starts() -> Iterator[int]:
            batches = (batch_at(step, skipped) for step in range(start_step, num_steps))
            slices = (batch * global_batch_size + rank * share for batch in batches)
            return (start + offset for start in slices for offset in range(0, share, micro_batch_size))

        def graph(source: Any, size: int, threads: int, *, on_cpu: bool = False) -> Any:
            return training(
                source,
                input_px=input_px,
                num_candidates=NUM_CANDIDATES,
                batch_size=size,
                num_threads=threads,
                device_id=None if on_cpu else device_id,
                decode="cpu" if on_cpu else decode,
                decode_roi=decode_roi or on_cpu,
                resize_filters=augmentation.resize_filters,
                horizontal_flip=self._in_graph.horizontal_flip > 0.0,
                vertical_flip=self._in_graph.vertical_flip > 0.0,
                colours=self._in_graph.has_colours,
                contrast=self._in_graph.contrast > 0.0,
                mean=mean,
                std=std,
                prefetch=prefetch if size > 1 else 1,
                most_pixels=reasons.MOST_PIXELS,
                until=end,
                exif_orientation=exif_orientation,
            )

        self._stream = Stream(
            dataset,
            (self._inputs(start) for start in starts()),
            graph,
            batch_size=micro_batch_size,
            num_threads=num_threads,
            device_id=device_id,
            decodes_on_gpu=decode == "mixed",
            bad=BadImages() if bad is None else bad,
            fill=True,
            seconds_to_read=seconds_to_read,
            limits=limits(mean, std) if self._in_graph.has_colours else None,
        )
        self._finished: Finished | None = None
        if not on_gpu and until not in ("read", "decode"):
            self._finished = Finished(
                self._stream.lists(),
                (self._changes(start) for start in starts()) if until == "all" else None,
                input_px=input_px,
                resize=resized_by_torch,
                limits=limits(mean, std),
                num_threads=num_threads,
                dtype=dtype,
            )

    def _inputs(self, start: int) -> tuple[Indices, Inputs]:
        # Drawn for the whole batch at once: sample by sample in Python costs a quarter of the throughput of two cores.
        _, index = self._order.at(start, self._micro)
        drawn = uniforms(self._order.seed, start, self._micro, NUM_UNIFORMS)
        candidates = crop_candidates(self._augmentation, drawn)
        wanted = [self._in_graph.horizontal_flip > 0.0, self._in_graph.vertical_flip > 0.0]
        flips = chosen_flips(self._augmentation, drawn).astype(np.int32).T[wanted]
        return index, (candidates, *chosen_filters(self._augmentation, drawn), *flips, *self._colours(drawn))

    def _colours(self, drawn: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        if not self._in_graph.has_colours:
            return ()
        maps = normalised(colour_maps(self._augmentation, drawn), self._mean, self._std)
        return maps if self._augmentation.contrast > 0.0 else maps[:2]

    def _changes(self, start: int) -> Changes:
        # Of the place alone, and so in step with the images whatever has become of those before them.
        drawn = uniforms(self._order.seed, start, self._micro, COLOUR_ORDER + 1)
        maps = normalised(colour_maps(self._augmentation, drawn), self._mean, self._std)
        return Changes(chosen_flips(self._augmentation, drawn), *maps)

    def __iter__(self) -> Iterator[Batch]:
        """Itself: a loader is used up once."""
        return self

    def __next__(self) -> Batch:
        """The next micro batch."""
        if self._finished is None:
            return next(self._stream)
        pixels, labels = next(self._finished)
        return Batch(pixels.permute(0, 3, 1, 2), labels)  # HWC seen as CHW is channels_last

    def lists(self) -> Iterator[tuple[Any, ...]]:
        """The micro batches as the pipeline gives them, unfinished: lists of images and of labels."""
        return self._stream.lists()

    def close(self) -> None:
        """Stop decoding and free DALI's threads and memory; batches already handed out stay valid."""
        self._stream.close()
        if self._finished is not None:
            self._finished.close()


def in_batches(indices: range, size: int) -> list[range]:
    """Indices that follow one another, cut into batches of `size`; the last one as short as it comes."""
    return [indices[start : start + size] for start in range(0, len(indices), size)]


class EvalLoader:
    """Every image of a split exactly once over all ranks, in order: rank r has the r-th of `world_size` contiguous ranges.

    The ranges differ by at most one image, so ranks may differ by one in their number of batches (`len`): no collective
    operation belongs into the loop. The last batch is as short as it comes. `batches`, ranges of at most batch_size indices, are loaded
    instead where they are given, whatever the rank. Raises DataError that names the files when more are bad
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
        batches: Sequence[range] | None = None,
    ) -> None:
        self.first = rank * len(dataset) // world_size
        """Index in the data set of this rank's first image; its images follow one another."""
        self.end = (rank + 1) * len(dataset) // world_size
        self._batches = batches if batches is not None else in_batches(range(self.first, self.end), batch_size)
        indices = (np.arange(batch.start, batch.stop) for batch in self._batches)
        self._stream = Stream(
            dataset,
            ((index, ()) for index in indices),
            lambda source, size, threads, *, on_cpu=False: evaluation(
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
            bad=BadImages() if bad is None else bad,
            fill=False,
            seconds_to_read=seconds_to_read,
        )

    def __len__(self) -> int:
        """Number of batches of this rank."""
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        """Itself: a loader is used up once."""
        return self

    def __next__(self) -> Batch:
        """The next batch."""
        return next(self._stream)

    def close(self) -> None:
        """Stop decoding and free DALI's threads and memory; batches already handed out stay valid."""
        self._stream.close()
