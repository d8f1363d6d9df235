"""`bench data`: images a second of a recipe's pipeline, stage by stage and without a network, and of its peers on the same files."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch

from inceptionctl.bench.figures import Contestant, Figure, interleaved, rates, ratio
from inceptionctl.bench.peers import PREFETCH_FACTOR, PillowImages, is_jpeg, pillow_batches, turbo_round
from inceptionctl.data.imageset import ImageSet
from inceptionctl.data.loader_settings import LoaderSettings
from inceptionctl.data.loaders import TrainLoader
from inceptionctl.data.sampler import BatchSampler, Sampler
from inceptionctl.data.transforms import TrainTransforms
from inceptionctl.errors import DataError, RecipeError
from inceptionctl.words import counted

STAGES = ("read", "decode", "resize", "colour", "all")
PILLOW, TURBO = "Pillow loader", "libjpeg-turbo"
# What they are read for: the cost of colour, of order and draws, of everything around libjpeg-turbo, and the usual way beside ours.
RATIOS = (("all", "resize"), ("all", "colour"), ("decode", TURBO), ("all", PILLOW))


class Repeated(TrainLoader):
    """A training's pipeline without its order and draws: the inputs of the first `num_kept` micro batches again and again."""

    def __init__(
        self,
        images: ImageSet,
        batches: BatchSampler,
        transforms: TrainTransforms,
        settings: LoaderSettings,
        *,
        num_kept: int,
        until: str = "all",
    ) -> None:
        self._num_kept, self._until = num_kept, until
        self._kept: dict[int, Any] = {}
        self._kept_changes: dict[int, Any] = {}
        super().__init__(images, batches, transforms, settings, until=until)
        for place in range(num_kept):
            self._inputs(place * self._micro)
            self._changes(place * self._micro)

    def _inputs(self, start: int) -> Any:
        place = start // self._micro % self._num_kept
        if place not in self._kept:
            index, inputs = super()._inputs(start)
            self._kept[place] = index, () if self._until == "read" else inputs
        return self._kept[place]

    def _changes(self, start: int) -> Any:
        place = start // self._micro % self._num_kept
        if place not in self._kept_changes:
            self._kept_changes[place] = super()._changes(start)
        return self._kept_changes[place]


def bench_data(
    images: ImageSet,
    transforms: TrainTransforms,
    settings: LoaderSettings,
    *,
    seed: int,
    batch_size: int,
    num_images: int,
    repeats: int,
    progress: Callable[[str, int, int], None],
) -> tuple[list[Figure], dict[str, str]]:
    """Figures of every stage and peer, and name -> reason for each peer that is left out.

    A round takes `num_images` images, in whole micro batches of `batch_size`. Raises DataError when there are fewer images, or when one
    does not decode, and RecipeError when they do not fill a batch.
    """
    if num_images < batch_size:
        raise RecipeError(
            f"{counted(num_images, 'image')} cannot fill a batch of {batch_size}",
            f"`--images {batch_size}` is the least; 1000 are better",
        )
    if num_images > len(images):
        raise DataError(
            f"{images.folder} has {counted(len(images), 'image')}, {num_images} are to be measured",
            f"`--images {len(images)}`, or more photographs: `inceptionctl bench photographs` makes them from yours",
        )
    rounds = num_images // batch_size
    chosen = images.picked(Sampler(seed, len(images)).at(0, rounds * batch_size)[1].tolist())
    encoded = [chosen.read(i) for i in range(len(chosen))]  # from here on every file lies in the memory of the system
    batches = BatchSampler(seed=seed, global_batch_size=batch_size, micro_batch_size=batch_size, num_steps=2**40)
    with ExitStack() as stack:
        contestants = [_stage(name, chosen, batches, transforms, settings, stack) for name in STAGES]
        contestants.append(_pillow(PillowImages(chosen, transforms), rounds, batch_size, settings.num_threads))
        turbo = _turbo(encoded, settings.num_threads, stack)
        if isinstance(turbo, Contestant):
            contestants.append(turbo)
        figures = rates(contestants, interleaved(contestants, repeats, progress), "images")
    left_out = {} if isinstance(turbo, Contestant) else {TURBO: turbo}
    pairs = [pair for pair in RATIOS if not {*pair} & {*left_out}]
    ratios = [ratio(figures, *pair, unit) for pair in pairs for unit in ("images/s", "images/CPU s")]
    return [*figures, *ratios], left_out


def _stage(
    name: str,
    images: ImageSet,
    batches: BatchSampler,
    transforms: TrainTransforms,
    settings: LoaderSettings,
    stack: ExitStack,
) -> Contestant:
    """One stage with all before it. All but the last have their inputs worked out beforehand."""
    rounds, lead = len(images) // batches.micro_batch_size, settings.prefetch + 1
    if name == "all":
        loader = TrainLoader(images, batches, transforms, settings)
    elif name == "colour":
        loader = Repeated(images, batches, transforms, settings, num_kept=rounds)
    else:
        loader = Repeated(images, batches, transforms.of_crop_alone(), settings, num_kept=rounds, until=name)
    source = loader.lists() if name in ("read", "decode") else loader
    stack.callback(loader.close)

    def take(count: int) -> None:
        _take(source, count)
        if settings.device_id is not None:
            torch.cuda.synchronize()

    return Contestant(name, lambda: take(rounds), len(images), lambda: take(lead), lead * batches.micro_batch_size)


def _pillow(images: PillowImages, rounds: int, batch_size: int, workers: int) -> Contestant:
    count, lead = rounds * batch_size, PREFETCH_FACTOR * workers
    batches = pillow_batches(images, count, batch_size, workers)
    return Contestant(PILLOW, lambda: _take(batches, rounds), count, lambda: _take(batches, lead), lead * batch_size)


def _turbo(encoded: Sequence[bytes], num_threads: int, stack: ExitStack) -> Contestant | str:
    """libjpeg-turbo on those that are JPEGs, or why it is left out."""
    jpegs = [image for image in encoded if is_jpeg(image)]
    if not jpegs:
        return "none of the images is a JPEG"
    try:
        work, pool = turbo_round(jpegs, num_threads)
    except ImportError:
        return "simplejpeg is not installed: pip install 'inceptionctl[bench]'"
    stack.callback(pool.shutdown)
    return Contestant(TURBO, work, len(jpegs))


def _take(batches: Iterator[Any], count: int) -> None:
    for _ in itertools.islice(batches, count):
        pass
