"""Batches for training and evaluation: our order and draws go in, DALI reads and decodes, torch tensors come out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from inceptionctl.data import reasons
from inceptionctl.data.augment import (
    COLOUR_ORDER,
    NUM_CANDIDATES,
    NUM_UNIFORMS,
    Augmentation,
    chosen_filters,
    crop_candidates,
    flips,
)
from inceptionctl.data.colour import colour_maps, limits, normalised
from inceptionctl.data.dataset import ImageSet
from inceptionctl.data.finishing import Finished, Maps
from inceptionctl.data.graphs import evaluation, training
from inceptionctl.data.order import SampleOrder, uniforms
from inceptionctl.data.probing import FileProbe
from inceptionctl.data.reading import ReadAhead
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

    `device_id` None keeps everything on the CPU, where data/finishing.py takes the last steps. Raises ValueError when the batch
    does not split, and, while iterating, DataError that names the files when some cannot be decoded.

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
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        prefetch: int = 2,
        until: str = "all",
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
        on_gpu = device_id is not None
        # torch's 8-bit kernel has no other filter that is DALI's.
        resized_by_torch = not on_gpu and list(augmentation.resize_filters) == ["bilinear"]
        end = until if on_gpu or until in ("read", "decode") else "decode" if resized_by_torch else "resize"
        self._in_graph = augmentation if on_gpu else augmentation.without_colours()

        def starts() -> Iterator[int]:
            slices = (step * global_batch_size + rank * share for step in range(start_step, num_steps))
            return (start + offset for start in slices for offset in range(0, share, micro_batch_size))

        self._stream = _Stream(
            dataset,
            (self._inputs(start) for start in starts()),
            lambda source: training(
                source,
                input_px=input_px,
                num_candidates=NUM_CANDIDATES,
                batch_size=micro_batch_size,
                num_threads=num_threads,
                device_id=device_id,
                decode=decode,
                resize_filters=augmentation.resize_filters,
                horizontal_flip=augmentation.horizontal_flip > 0.0,
                vertical_flip=augmentation.vertical_flip > 0.0,
                colours=self._in_graph.has_colours,
                contrast=self._in_graph.contrast > 0.0,
                mean=mean,
                std=std,
                prefetch=prefetch,
                read_files=dataset.pieces is None,
                until=end,
            ),
            device_id,
            limits(mean, std) if self._in_graph.has_colours else None,
        )
        self._finished: Finished | None = None
        if not on_gpu and until not in ("read", "decode"):
            self._finished = Finished(
                self._stream.lists(),
                (self._maps(start) for start in starts()) if until == "all" else None,
                input_px=input_px,
                resize=resized_by_torch,
                limits=limits(mean, std),
                num_threads=num_threads,
            )

    def _inputs(self, start: int) -> tuple[Indices, Inputs]:
        # Drawn for the whole batch at once: sample by sample in Python costs a quarter of the throughput of two cores.
        _, index = self._order.at(start, self._micro)
        drawn = uniforms(self._order.seed, start, self._micro, NUM_UNIFORMS)
        candidates = crop_candidates(self._augmentation, drawn)
        choices = (*chosen_filters(self._augmentation, drawn), *flips(self._augmentation, drawn))
        return index, (candidates, *choices, *self._colours(drawn))

    def _colours(self, drawn: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        if not self._in_graph.has_colours:
            return ()
        maps = normalised(colour_maps(self._augmentation, drawn), self._mean, self._std)
        return maps if self._augmentation.contrast > 0.0 else maps[:2]

    def _maps(self, start: int) -> Maps:
        # Of the place alone, and so in step with the images whatever has become of those before them.
        drawn = uniforms(self._order.seed, start, self._micro, COLOUR_ORDER + 1)
        return normalised(colour_maps(self._augmentation, drawn), self._mean, self._std)

    def __iter__(self) -> Iterator[Batch]:
        """Itself: a loader is used up once."""
        return self

    def __next__(self) -> Batch:
        """The next micro batch."""
        if self._finished is None:
            return next(self._stream)
        pixels, labels = next(self._finished)
        return Batch(pixels.permute(0, 3, 1, 2), labels)  # HWC seen as CHW is channels_last

    def lists(self) -> Iterator[tuple[Any, Any]]:
        """The micro batches as the pipeline gives them, unfinished: lists of images and of labels."""
        return self._stream.lists()

    def close(self) -> None:
        """Stop decoding and free DALI's threads and memory; batches already handed out stay valid."""
        self._stream.close()
        if self._finished is not None:
            self._finished.close()


class EvalLoader:
    """Every image of a split exactly once over all ranks, in order: rank r has the r-th of `world_size` contiguous ranges.

    The ranges differ by at most one image, so ranks may differ by one in their number of batches (`len`): no collective
    operation belongs into the loop. The last batch is as short as it comes. Raises DataError that names the files when some
    cannot be decoded.
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
    ) -> None:
        self.first = rank * len(dataset) // world_size
        """Index in the data set of this rank's first image; its images follow one another."""
        self.end = (rank + 1) * len(dataset) // world_size
        self._batch_size = batch_size
        indices = (np.arange(start, min(start + batch_size, self.end)) for start in range(self.first, self.end, batch_size))
        self._stream = _Stream(
            dataset,
            ((index, ()) for index in indices),
            lambda source: evaluation(
                source,
                input_px=input_px,
                central_fraction=central_fraction,
                keep_aspect=keep_aspect,
                interpolation=interpolation,
                antialias=antialias,
                mean=mean,
                std=std,
                batch_size=batch_size,
                num_threads=num_threads,
                device_id=device_id,
                decode=decode,
                prefetch=prefetch,
                read_files=dataset.pieces is None,
            ),
            device_id,
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


class _Stream:
    """Feeds one pipeline from an iterator of (indices, inputs after path and label) and knows which images are inside it."""

    def __init__(
        self,
        dataset: ImageSet,
        inputs: Iterator[tuple[Indices, Inputs]],
        build: Callable[[Callable[[], Inputs]], Any],
        device_id: int | None,
        limits: Sequence[tuple[float, float]] | None = None,
    ) -> None:
        self._dataset = dataset
        self._inputs = inputs
        self._ahead = ReadAhead(dataset, inputs) if dataset.pieces is not None else None
        self._limits = limits
        self._device_id = device_id
        self._in_flight: deque[Indices] = deque()
        self._pipe = build(self._feed)

    def _feed(self) -> Inputs:
        # DALI calls this inside run(), in the thread of the caller; StopIteration of the iterator is the end it waits for.
        if self._ahead is not None:
            index, encoded, inputs = next(self._ahead)
        else:
            index, inputs = next(self._inputs)
            encoded = [np.frombuffer(self._dataset.path(i), dtype=np.uint8) for i in index]  # file names: DALI reads them
        self._in_flight.append(index)
        return encoded, self._dataset.labels[index].astype(np.int64), *inputs

    def __next__(self) -> Batch:
        images, labels = self._run()
        # Not copied: under DALI's dynamic executor an output belongs to whoever holds it. HWC seen as CHW is channels_last.
        pixels = from_dlpack(images.as_tensor()).permute(0, 3, 1, 2)
        if self._limits:
            _clamp(pixels, self._limits)
        return Batch(pixels, from_dlpack(labels.as_tensor()))

    def lists(self) -> Iterator[tuple[Any, Any]]:
        """The batches as DALI gives them: lists of images, which may differ in size, and of labels."""
        return iter(self._run, None)  # StopIteration of the pipeline ends it

    def _run(self) -> tuple[Any, Any]:
        if self._pipe is None:
            raise StopIteration
        try:
            images, labels = self._pipe.run(self._consumer())
        except (StopIteration, DataError):
            self.close()
            raise
        except RuntimeError as fault:
            self.close()
            raise _blamed(self._dataset, self._in_flight, str(fault)) from fault
        self._in_flight.popleft()
        return images, labels

    def _consumer(self) -> Any:
        # On a GPU the outputs are ordered into torch's stream and the host does not wait for them.
        return None if self._device_id is None else torch.cuda.current_stream(self._device_id)

    def close(self) -> None:
        self._pipe = None
        if self._ahead is not None:
            self._ahead.close()


def _clamp(pixels: Tensor, limits: Sequence[tuple[float, float]]) -> None:
    """Keep each channel of [N, 3, px, px] within its limits, in place; in one go where they are all the same."""
    if len(set(limits)) == 1:
        pixels.clamp_(*limits[0])
        return
    for channel, bounds in enumerate(limits):
        pixels[:, channel].clamp_(*bounds)


def _blamed(dataset: ImageSet, in_flight: Sequence[Indices], raised: str) -> DataError | EnvironmentFault:
    """The error to raise when DALI has failed: names the files of the batches in flight that do not decode by themselves."""
    spans = [dataset.span(i) for i in dict.fromkeys(int(i) for index in in_flight for i in index)]
    with closing(FileProbe(num_threads=1)) as probe:
        bad = [f"{found.name}: {found.reason}" for found in probe.look_into(spans) if found.reason]
    if not bad:
        return EnvironmentFault(
            f"the image pipeline failed, though every file in it decodes alone: {reasons.essence(raised)}",
            "memory may have run out: lower train.micro_batch_size or data.num_threads",
        )
    more = f"\nand {len(bad) - 5} more" if len(bad) > 5 else ""
    what = f"cannot decode {bad[0]}" if len(bad) == 1 else f"cannot decode {len(bad)} images:\n" + "\n".join(bad[:5]) + more
    return DataError(what, f"`inceptionctl data check {dataset.root}` lists every file that cannot be read")
