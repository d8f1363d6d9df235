"""Batches for training and evaluation: our order and draws go in, DALI reads and decodes, torch tensors come out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from inceptionctl.augmentations import Augmentation, parameters_of
from inceptionctl.data.bad_images import BadImages
from inceptionctl.data.base_loader import BaseLoader, Batch, Indices, Inputs, batch_of
from inceptionctl.data.colour import colour_maps, limits, normalised
from inceptionctl.data.cpu_transforms import Changes, Finished
from inceptionctl.data.dataset import ImageSet
from inceptionctl.data.graphs import PipelineSettings, decoded, evaluation, training, views
from inceptionctl.data.loader_settings import LoaderSettings
from inceptionctl.data.mix import drawn_pairs, mixed
from inceptionctl.data.sampler import BatchSampler, uniforms
from inceptionctl.data.transforms import (
    COLOUR_ORDER,
    NUM_CANDIDATES,
    NUM_UNIFORMS,
    Preparation,
    TrainTransforms,
    chosen_filters,
    chosen_flips,
    crop_candidates,
)
from inceptionctl.protocols import square_start

__all__ = ["Batch", "EvalLoader", "ImageViews", "PictureLoader", "TrainLoader", "ViewLoader"]


class TrainLoader(BaseLoader[Batch]):
    """The micro batches of one rank, those of `batches`. An image is a pure function of (seed, place): its pixels are the same to the bit
    for any number of ranks and threads, any micro batch, and any step that the loader was started at.

    The place of an image that cannot be read in time or not decoded is filled, the same for everyone who gets to the place.

    On a CPU data/cpu_transforms.py takes the last steps. `until` stops early, to measure a part: after 'read' or 'decode', when there are only
    `lists`, or after 'resize', when the values of a batch mean nothing yet.
    """

    def __init__(
        self,
        dataset: ImageSet,
        batches: BatchSampler,
        transforms: TrainTransforms,
        settings: LoaderSettings,
        *,
        bad: BadImages | None = None,
        until: str = "all",
    ) -> None:
        self._sampler = batches.sampler(len(dataset), dataset.labels)
        self._transforms = transforms
        self._micro = batches.micro_batch_size
        self._starts = iter(batches)
        self._limits = limits(transforms.mean, transforms.std)
        on_gpu = settings.device_id is not None
        # torch's 8-bit kernel has no other filter that is DALI's.
        resized_by_torch = not on_gpu and list(transforms.resize_filters) == ["bilinear"] and not transforms.augmentations
        end = until if on_gpu or until in ("read", "decode") else "decode" if resized_by_torch else "resize"
        self._in_graph = in_graph = transforms if on_gpu else transforms.of_crop_alone()

        def graph(source: Callable[[], Inputs], pipeline: PipelineSettings) -> Any:
            return training(
                source,
                pipeline,
                input_px=transforms.input_px,
                num_candidates=NUM_CANDIDATES,
                resize_filters=transforms.resize_filters,
                horizontal_flip=in_graph.horizontal_flip > 0.0,
                vertical_flip=in_graph.vertical_flip > 0.0,
                colours=in_graph.has_colours,
                contrast=in_graph.contrast > 0.0,
                mean=transforms.mean,
                std=transforms.std,
                changes=[(one.apply, _kinds(one)) for one in transforms.augmentations],
                until=end,
            )

        super().__init__(
            dataset,
            (self._inputs(start) for start in batches),
            graph,
            settings,
            batch_size=self._micro,
            exif_orientation=transforms.exif_orientation,
            bad=bad,
            fill=True,
        )
        self._finished: Finished | None = None
        if not on_gpu and until not in ("read", "decode"):
            self._finished = Finished(
                self.lists(),
                (self._changes(start) for start in batches) if until == "all" else None,
                input_px=transforms.input_px,
                resize=resized_by_torch,
                limits=self._limits,
                num_threads=settings.num_threads,
                dtype=settings.dtype,
            )

    def _inputs(self, start: int) -> tuple[Indices, Inputs]:
        # Drawn for the whole batch at once: sample by sample in Python costs a quarter of the throughput of two cores.
        _, index = self._sampler.at(start, self._micro)
        drawn = uniforms(self._sampler.seed, start, self._micro, NUM_UNIFORMS)
        candidates = crop_candidates(self._transforms, drawn)
        wanted = [self._in_graph.horizontal_flip > 0.0, self._in_graph.vertical_flip > 0.0]
        flips = chosen_flips(self._transforms, drawn).astype(np.int32).T[wanted]
        seed, micro, px = self._sampler.seed, self._micro, self._transforms.input_px
        changes = parameters_of(
            self._transforms.augmentations, lambda stream, num: uniforms(seed, start, micro, num, stream), px
        )
        return index, (candidates, *chosen_filters(self._transforms, drawn), *flips, *changes, *self._colours(drawn))

    def _colours(self, drawn: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        if not self._in_graph.has_colours:
            return ()
        maps = normalised(colour_maps(self._transforms, drawn), self._transforms.mean, self._transforms.std)
        return maps if self._transforms.contrast > 0.0 else maps[:2]

    def _changes(self, start: int) -> Changes:
        # Of the place alone, and so in step with the images whatever has become of those before them.
        drawn = uniforms(self._sampler.seed, start, self._micro, COLOUR_ORDER + 1)
        maps = normalised(colour_maps(self._transforms, drawn), self._transforms.mean, self._transforms.std)
        return Changes(chosen_flips(self._transforms, drawn), *maps)

    def __next__(self) -> Batch:
        """The next micro batch."""
        if self._finished is not None:
            pixels, labels = next(self._finished)
            return self._mixed(Batch(pixels.permute(0, 3, 1, 2), labels))  # HWC seen as CHW is channels_last
        batch = batch_of(*self.outputs())
        if self._in_graph.has_colours:
            _clamp(batch.images, self._limits)
        return self._mixed(batch)

    def _mixed(self, batch: Batch) -> Batch:
        mix = self._transforms.mix
        if mix is None:
            return batch
        start = next(self._starts)  # no batch is ever left out: the place of a bad image is filled
        epochs = np.arange(start, start + self._micro) // self._sampler.num_samples
        pairs = drawn_pairs(mix, self._sampler.seed, start, epochs, self._transforms.input_px)
        images, others, weights = mixed(batch.images, batch.labels, pairs)
        return Batch(images, batch.labels, (others, weights))

    def close(self) -> None:
        """Stop decoding and free DALI's threads and memory; batches already handed out stay valid."""
        super().close()
        if self._finished is not None:
            self._finished.close()


def _kinds(augmentation: Augmentation) -> list[str]:
    parameters = augmentation.parameters(np.zeros((1, augmentation.NUM_UNIFORMS), np.float32), 1)
    return [parameter.dtype.name for parameter in parameters]


def _clamp(pixels: Tensor, limits: Sequence[tuple[float, float]]) -> None:
    """Keep each channel of [N, 3, px, px] within its limits, in place; in one go where they are all the same."""
    if len(set(limits)) == 1:
        pixels.clamp_(*limits[0])
        return
    for channel, bounds in enumerate(limits):
        pixels[:, channel].clamp_(*bounds)


def in_batches(indices: range, size: int) -> list[range]:
    """Indices that follow one another, cut into batches of `size`; the last one as short as it comes."""
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def share_in_batches(num_images: int, batch_size: int, rank: int, world_size: int) -> list[range]:
    """A rank's share of a split in batches, so that all ranks have every image exactly once, in order: contiguous ranges.

    The shares differ by at most one image, so ranks may differ by one in their number of batches: no collective operation belongs into
    a loop over them.
    """
    return in_batches(range(rank * num_images // world_size, (rank + 1) * num_images // world_size), batch_size)


def _indices(batches: Sequence[range]) -> Iterator[tuple[Indices, Inputs]]:
    return ((np.arange(batch.start, batch.stop), ()) for batch in batches)


def _longest(batches: Sequence[range]) -> int:
    return max(map(len, batches), default=1)


class EvalLoader(BaseLoader[Batch]):
    """The images of `batches` (ranges of indices of the data set), in order; without the bad ones, so that batches are shorter, or fewer."""

    def __init__(
        self,
        dataset: ImageSet,
        batches: Sequence[range],
        preparation: Preparation,
        settings: LoaderSettings,
        *,
        bad: BadImages | None = None,
    ) -> None:
        def graph(source: Callable[[], Inputs], pipeline: PipelineSettings) -> Any:
            return evaluation(
                source,
                pipeline,
                input_px=preparation.input_px,
                central_fraction=preparation.central_fraction,
                keep_aspect=preparation.keep_aspect,
                interpolation=preparation.interpolation,
                antialias=preparation.antialias,
                mean=preparation.mean,
                std=preparation.std,
            )

        size, upright = _longest(batches), preparation.exif_orientation
        super().__init__(dataset, _indices(batches), graph, settings, batch_size=size, exif_orientation=upright, bad=bad)

    def __next__(self) -> Batch:
        """The next batch."""
        return batch_of(*self.outputs())


@dataclass(frozen=True)
class ImageViews:
    """One image in all sizes: uint8 [height, width, 3], RGB, on the loader's device; valid for as long as it is referred to."""

    height: int
    """In px, as decoded."""
    width: int
    resized: list[Tensor]
    """In the order of the shorter sides."""
    squares: dict[tuple[int, int], Tensor]
    """By the (top, left) px where they begin in the image: its squares, resized to the input."""
    label: int


class ViewLoader(BaseLoader[list[ImageViews]]):
    """The images of `batches` in several sizes, for evaluations by many crops: each is read and decoded once.

    Of the preparation the filter counts, and the input's size for `squares`; see pipelines/views.py for the sizes.
    """

    def __init__(
        self,
        dataset: ImageSet,
        batches: Sequence[range],
        preparation: Preparation,
        settings: LoaderSettings,
        *,
        shorter_sides: Sequence[int],
        squares: Sequence[str],
        bad: BadImages | None = None,
    ) -> None:
        self._squares, self._num_sides = tuple(squares), len(shorter_sides)

        def graph(source: Callable[[], Inputs], pipeline: PipelineSettings) -> Any:
            return views(
                source,
                pipeline,
                shorter_sides=shorter_sides,
                squares=squares,
                input_px=preparation.input_px,
                interpolation=preparation.interpolation,
                antialias=preparation.antialias,
            )

        size, upright = _longest(batches), preparation.exif_orientation
        super().__init__(dataset, _indices(batches), graph, settings, batch_size=size, exif_orientation=upright, bad=bad)

    def __next__(self) -> list[ImageViews]:
        """The pictures of the next batch."""
        *images, sides, labels = self.outputs()
        numbers = from_dlpack(labels.as_tensor()).tolist()
        return [self._picture(images, from_dlpack(sides[k]).tolist(), k, label) for k, label in enumerate(numbers)]

    def _picture(self, images: Sequence[Any], sides: Sequence[int], k: int, label: int) -> ImageViews:
        height, width = sides
        sizes = [from_dlpack(one[k]) for one in images]
        # Equal squares of a square image share one place.
        places = [square_start(name, height, width) for name in self._squares]
        squares = dict(zip(places, sizes[self._num_sides :], strict=True))
        return ImageViews(height, width, sizes[: self._num_sides], squares, label)


class PictureLoader(BaseLoader[list[Tensor]]):
    """The images of `batches` as they are decoded, on the CPU, for networks that prepare them by themselves: uint8 [height, width, 3], RGB."""

    def __init__(
        self,
        dataset: ImageSet,
        batches: Sequence[range],
        settings: LoaderSettings,
        *,
        exif_orientation: bool,
        bad: BadImages | None = None,
    ) -> None:
        size, on_cpu = _longest(batches), replace(settings, device_id=None, decode="cpu")
        super().__init__(
            dataset, _indices(batches), decoded, on_cpu, batch_size=size, exif_orientation=exif_orientation, bad=bad
        )

    def __next__(self) -> list[Tensor]:
        """The images of the next batch; valid for as long as they are referred to."""
        images, labels = self.outputs()
        return [from_dlpack(images[k]) for k in range(len(labels))]
