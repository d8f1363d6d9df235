"""Whether an export computes what the checkpoint computes."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from inceptionctl.data.dataset import open_split
from inceptionctl.errors import CheckpointError, DataError
from inceptionctl.evaluate.images import load_pictures, load_set
from inceptionctl.evaluate.trained import Trained
from inceptionctl.export.forms import Logits
from inceptionctl.train.inputs import preparation_of
from inceptionctl.words import counted

NUM_IMAGES = 8
MAX_DIFFERENCE = 1e-4
# An export adds up in another order, so it is off by about as much as the checkpoint's own logits are from exact ones.
MAX_ROUNDINGS = 4.0
# Of a probability, where the export prepares pictures itself: values of 8 bits that lie between two are rounded to the other one.
MAX_PROBABILITY_DIFFERENCE = 0.01


@dataclass(frozen=True)
class Sample:
    """Images to compare on, and the checkpoint's logits of them."""

    model: nn.Module
    """The checkpoint's network, fp32, on the CPU."""
    images: Tensor
    """float32 [N, 3, px, px], normalised, on the CPU, channels first in memory too."""
    source: str
    """Which images these are, in words."""
    pictures: tuple[Tensor, ...] = ()
    """The same as decoded: uint8 [1, height, width, 3]; only where they were asked for."""

    @cached_property
    def expected(self) -> Tensor:
        """The checkpoint's logits: float32 [N, number of classes]."""
        with torch.inference_mode():
            logits: Tensor = self.model(self.images)
        return logits

    @cached_property
    def logit_spread(self) -> float:
        """By how much a logit differs between images at most. Near zero, any export agrees: the bias alone makes the logits."""
        return float((self.expected.amax(0) - self.expected.amin(0)).max())

    @property
    def tells(self) -> bool:
        """Whether the logits differ between images by much more than an export may be off."""
        return self.logit_spread > 100.0 * MAX_DIFFERENCE

    @cached_property
    def rounding(self) -> float:
        """By how much rounding to fp32 changes the checkpoint's logits; takes twice the memory and several times the time.

        About 1e-6 in a trained network. One that was trained for a few steps can make 1e-3 of it.
        """
        with torch.inference_mode():
            exact = copy.deepcopy(self.model).double()(self.images.double())
        return float((self.expected - exact).abs().max())


def draw_sample(trained: Trained, data_root: Path, num_threads: int, *, with_pictures: bool = False) -> Sample:
    """Up to 8 validation images, evenly spaced; pseudo-random ones if those cannot be read. The network is on the CPU.

    Raises DataError if they cannot be read and pictures as decoded are wanted too.
    """
    return Sample(trained.model, *_images(trained, data_root, num_threads, with_pictures))


def _images(
    trained: Trained, data_root: Path, num_threads: int, with_pictures: bool
) -> tuple[Tensor, str] | tuple[Tensor, str, tuple[Tensor, ...]]:
    preparation = preparation_of(trained.recipe)
    try:
        split = open_split(data_root, "val", **trained.recipe.data.sources(data_root))
        images = split.spread(NUM_IMAGES)
        count = len(images)
        loaded = list(load_set(images, preparation, batch_size=count, num_threads=num_threads))
        if with_pictures:
            pictures = tuple(load_pictures(images, preparation, batch_size=count, num_threads=num_threads))
            return torch.cat(loaded).contiguous(), f"{counted(count, 'validation image')} of {data_root}", pictures
    except DataError as error:
        if with_pictures:
            raise DataError(
                f"an export with its preprocessing is compared on real pictures: {error.message}",
                "name the folder with val/ by --data ROOT",
            ) from None
        made = pseudo_random_images(NUM_IMAGES, preparation.input_px)
        mean, std = (torch.tensor(values)[:, None, None] for values in (preparation.mean, preparation.std))
        return made * (0.5 / std) + (0.5 - mean) / std, f"{NUM_IMAGES} pseudo-random images ({error.message.splitlines()[0]})"
    return torch.cat(loaded).contiguous(), f"{counted(count, 'validation image')} of {data_root}"


def pseudo_random_images(count: int, px: int) -> Tensor:
    """The same images at every call: coarse blotches, each image coarser or finer than the one before, in [-1, 1]."""
    generator = torch.Generator().manual_seed(0)
    # Plain noise of one kind looks alike to a network; images of different grain do not.
    grains = (torch.rand(1, 3, 2 + i, 2 + i, generator=generator) * 2.0 - 1.0 for i in range(count))
    return torch.cat([functional.interpolate(grain, size=(px, px), mode="bilinear", align_corners=False) for grain in grains])


def largest_difference(logits: Logits, sample: Sample) -> float:
    """Largest absolute difference of a logit from the checkpoint's. Infinite where there is a NaN.

    Asks for one image first and then for the others: an export whose batch size is fixed cannot pass.
    """
    parts = [logits(sample.images[:1])] + ([logits(sample.images[1:])] if len(sample.images) > 1 else [])
    difference = (torch.cat(parts) - sample.expected).abs().max()
    return float("inf") if difference.isnan() else float(difference)


def check(name: str, logits: Logits, sample: Sample) -> float:
    """`largest_difference`. Raises CheckpointError when it is over 1e-4 and more than rounding can explain."""
    difference = largest_difference(logits, sample)
    if difference > MAX_DIFFERENCE and difference > MAX_ROUNDINGS * sample.rounding:
        raise CheckpointError(
            f"{name} does not agree with the checkpoint: logits differ by up to {difference:.2g} on {sample.source},"
            f" and fp32 rounding explains {sample.rounding:.1g}; it was not written",
            "use another format, and report this: it is a bug of inceptionctl or of the exporting library",
        )
    return difference


def check_pixels(name: str, logits: Logits, sample: Sample) -> float:
    """Largest absolute difference of a probability from the checkpoint's, whose images the data path prepared; infinite for a NaN.

    Asks for each picture alone and for two of a size at once. Raises CheckpointError when it is over 0.01.
    """
    expected = sample.expected.softmax(1)
    found = torch.cat([logits(picture) for picture in sample.pictures])
    twice = logits(sample.pictures[0].expand(2, -1, -1, -1))
    difference = torch.cat([found, twice]).softmax(1) - torch.cat([expected, expected[:1], expected[:1]])
    largest = float("inf") if difference.isnan().any() else float(difference.abs().max())
    if largest > MAX_PROBABILITY_DIFFERENCE:
        raise CheckpointError(
            f"{name} does not agree with the checkpoint: probabilities differ by up to {largest:.2g} on {sample.source},"
            f" and {MAX_PROBABILITY_DIFFERENCE:g} is allowed for another resampling; it was not written",
            "leave --preprocessing out, and report this: it is a bug of inceptionctl or of the exporting library",
        )
    return largest
