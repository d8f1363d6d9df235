"""An export beside its checkpoint: the same logits on a few images, or in fewer bits the same accuracy on many."""

from __future__ import annotations

import copy
import math
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from inceptionctl.data.dataset import open_split
from inceptionctl.data.imageset import ImageSet
from inceptionctl.errors import CheckpointError, DataError
from inceptionctl.evaluate.evaluation import check_classes
from inceptionctl.evaluate.inputs import load_images, load_pictures
from inceptionctl.evaluate.trained import Trained
from inceptionctl.export.description import Accuracy
from inceptionctl.export.formats import Logits
from inceptionctl.train.inputs import preparation_of
from inceptionctl.words import counted, percent

NUM_IMAGES = 8
MAX_DIFFERENCE = 1e-4
# An export sums in another order, so its error is about that of the checkpoint's own logits against fp64.
MAX_ROUNDINGS = 4.0
# Of a probability, for exports with their preprocessing: 8-bit values halfway between two round the other way.
MAX_PROBABILITY_DIFFERENCE = 0.01


@dataclass(frozen=True)
class Reference:
    """Images to compare on, and the checkpoint's logits for them."""

    model: nn.Module
    """The checkpoint's network, fp32, on the CPU."""
    images: Tensor
    """float32 [N, 3, px, px], normalised, on the CPU, channels first in memory too."""
    source: str
    """Description of the images."""
    pictures: tuple[Tensor, ...] = ()
    """The same as decoded: uint8 [1, height, width, 3]; only if requested."""

    @cached_property
    def expected(self) -> Tensor:
        """The checkpoint's logits: float32 [N, number of classes]."""
        with torch.inference_mode():
            logits: Tensor = self.model(self.images)
        return logits

    @cached_property
    def logit_spread(self) -> float:
        """Largest difference of a logit between images. Near zero, any export agrees: the logits are the bias alone."""
        return float((self.expected.amax(0) - self.expected.amin(0)).max())

    @property
    def tells(self) -> bool:
        """Whether the logits differ between images by much more than the tolerance of an export."""
        return self.logit_spread > 100.0 * MAX_DIFFERENCE

    @cached_property
    def rounding(self) -> float:
        """Error of the checkpoint's fp32 logits against fp64; takes twice the memory and several times the time.

        About 1e-6 for a trained network, up to 1e-3 after a few steps of training.
        """
        with torch.inference_mode():
            exact = copy.deepcopy(self.model).double()(self.images.double())
        return float((self.expected - exact).abs().max())


def draw_reference(trained: Trained, data_root: Path, num_threads: int, *, with_pictures: bool = False) -> Reference:
    """Up to 8 validation images, evenly spaced; pseudo-random ones if those cannot be read. The network is on the CPU.

    Raises DataError if they cannot be read and `with_pictures` is set.
    """
    return Reference(trained.model, *_images(trained, data_root, num_threads, with_pictures))


def _images(
    trained: Trained, data_root: Path, num_threads: int, with_pictures: bool
) -> tuple[Tensor, str] | tuple[Tensor, str, tuple[Tensor, ...]]:
    preparation = preparation_of(trained.recipe)
    try:
        split = open_split(data_root, "val", **trained.recipe.data.sources(data_root))
        images = split.spread(NUM_IMAGES)
        count = len(images)
        loaded = list(load_images(images, preparation, batch_size=count, num_threads=num_threads))
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
    # Plain noise looks alike to a network; images of different grain do not.
    grains = (torch.rand(1, 3, 2 + i, 2 + i, generator=generator) * 2.0 - 1.0 for i in range(count))
    return torch.cat([functional.interpolate(grain, size=(px, px), mode="bilinear", align_corners=False) for grain in grains])


def largest_difference(logits: Logits, reference: Reference) -> float:
    """Largest absolute difference of a logit from the checkpoint's. Infinite where there is a NaN.

    Runs one image first and then the others: an export with a fixed batch size cannot pass.
    """
    parts = [logits(reference.images[:1])] + ([logits(reference.images[1:])] if len(reference.images) > 1 else [])
    difference = (torch.cat(parts) - reference.expected).abs().max()
    return float("inf") if difference.isnan() else float(difference)


def check(name: str, logits: Logits, reference: Reference) -> float:
    """`largest_difference`. Raises CheckpointError when it is over 1e-4 and more than rounding can explain."""
    difference = largest_difference(logits, reference)
    if difference > MAX_DIFFERENCE and difference > MAX_ROUNDINGS * reference.rounding:
        raise CheckpointError(
            f"{name} does not agree with the checkpoint: logits differ by up to {difference:.2g} on {reference.source},"
            f" and fp32 rounding explains {reference.rounding:.1g}; it was not written",
            "use another format, and report this: it is a bug of inceptionctl or of the exporting library",
        )
    return difference


def check_pixels(name: str, logits: Logits, reference: Reference) -> float:
    """Largest absolute difference of a probability from the checkpoint's, preprocessed by the data path; infinite for a NaN.

    Runs each picture alone, and two of one size at once. Raises CheckpointError when it is over 0.01.
    """
    expected = reference.expected.softmax(1)
    found = torch.cat([logits(picture) for picture in reference.pictures])
    twice = logits(reference.pictures[0].expand(2, -1, -1, -1))
    difference = torch.cat([found, twice]).softmax(1) - torch.cat([expected, expected[:1], expected[:1]])
    largest = float("inf") if difference.isnan().any() else float(difference.abs().max())
    if largest > MAX_PROBABILITY_DIFFERENCE:
        raise CheckpointError(
            f"{name} does not agree with the checkpoint: probabilities differ by up to {largest:.2g} on {reference.source},"
            f" and {MAX_PROBABILITY_DIFFERENCE:g} is allowed for another resampling; it was not written",
            "leave --preprocessing out, and report this: it is a bug of inceptionctl or of the exporting library",
        )
    return largest


BATCH_SIZE = 16
# Two-sided 95% of the normal distribution.
Z95 = 1.959964
# By Linux' names, widest first. The instruction set of 8-bit products decides how an int8 file rounds, and whether it is fast.
INT8_INSTRUCTIONS = {
    "amx_int8": "AMX-INT8",
    "avx512_vnni": "AVX512-VNNI",
    "avx_vnni": "AVX-VNNI",
    "avx512bw": "AVX-512 without VNNI",
    "avx2": "AVX2 without VNNI",
    "i8mm": "I8MM",
    "asimddp": "NEON with dot products",
}


@dataclass(frozen=True)
class Validation:
    """Labelled images to measure an export's accuracy on, and the loss allowed."""

    trained: Trained
    """On the CPU, fp32."""
    images: ImageSet
    max_loss: float
    """Percentage points of top-1 accuracy."""
    num_threads: int

    @cached_property
    def expected(self) -> Tensor:
        """The checkpoint's logits: float32 [N, classes], computed once for all exports."""
        with torch.inference_mode():
            return torch.cat([self.trained.model(batch) for batch in self._inputs(takes_pixels=False)])

    def measure(self, logits: Logits, takes_pixels: bool) -> Accuracy:
        """The export beside the checkpoint. Raises DataError for an image that cannot be decoded, CheckpointError for NaNs."""
        found, expected = torch.cat([logits(batch) for batch in self._inputs(takes_pixels)]), self.expected
        if not found.isfinite().all():
            raise CheckpointError(
                "the export gives values that are not finite: it overflows; it was not written",
                "take --precision fp32, or int8, whose ranges follow the data",
            )
        labels = torch.from_numpy(self.images.labels).long()
        ours, theirs = expected.argmax(1), found.argmax(1)
        top1_checkpoint, top1 = (percent(int((answer == labels).sum()), len(labels)) for answer in (ours, theirs))
        only_ours, only_theirs = (ours == labels) & (theirs != labels), (ours != labels) & (theirs == labels)
        return Accuracy(
            num_images=len(labels),
            top1_checkpoint=top1_checkpoint,
            top1=top1,
            loss=percent(int(only_ours.sum()) - int(only_theirs.sum()), len(labels)),
            loss_interval=list(loss_interval(int(only_ours.sum()), int(only_theirs.sum()), len(labels))),
            agreement=percent(int((ours == theirs).sum()), len(labels)),
            max_difference=None if takes_pixels else float((found - expected).abs().max()),
            max_probability_difference=float((found.softmax(1) - expected.softmax(1)).abs().max()),
            instruction_set=instruction_set(),
        )

    def judge(self, file: str, by: str, accuracy: Accuracy) -> str | None:
        """A remark if it loses more than allowed but within chance.

        Raises CheckpointError if not by chance: the whole interval is above `max_loss`.
        """
        if accuracy.loss <= self.max_loss:
            return None
        assert accuracy.loss_interval is not None
        low, high = accuracy.loss_interval
        found = (
            f"{file} loses {accuracy.loss:.2f} points of top-1 accuracy in {by} ({accuracy.top1_checkpoint:.2f}% to"
            f" {accuracy.top1:.2f}% of {accuracy.num_images} validation images; 95% interval of the loss {low:.2f} to {high:.2f})"
        )
        if low > self.max_loss:
            raise CheckpointError(
                f"{found}, more than --max-accuracy-loss {self.max_loss:g}; it was not written",
                "allow more, take --precision fp16, or for int8 more --calibration-images",
            )
        return f"{found}: above --max-accuracy-loss {self.max_loss:g}, which may be chance; raise --accuracy-images to know"

    def _inputs(self, takes_pixels: bool) -> Iterator[Tensor]:
        load = load_pictures if takes_pixels else load_images
        return load(self.images, preparation_of(self.trained.recipe), batch_size=BATCH_SIZE, num_threads=self.num_threads)


def loss_interval(lost: int, gained: int, num_images: int) -> tuple[float, float]:
    """95% interval, in percentage points, of the accuracy that an export loses against its checkpoint on the same images.

    `lost`: images that only the checkpoint classifies correctly; `gained`: only the export. Images on which both are right or both wrong
    say nothing about the difference. The adjusted Wald interval of Bonett and Price (2012), which also holds for few images and where
    nothing is lost: doi.org/10.3102/1076998611411915.
    """
    n = num_images + 2
    of_lost, of_gained = (lost + 1) / n, (gained + 1) / n
    half = Z95 * math.sqrt((of_lost + of_gained - (of_lost - of_gained) ** 2) / n)
    middle = of_lost - of_gained
    return 100.0 * max(middle - half, -1.0), 100.0 * min(middle + half, 1.0)


def instruction_set(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """This processor's instruction set for 8-bit integer products, as `AVX512-VNNI`; the architecture if unknown."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.machine()
    match = re.search(r"^(?:flags|Features)\s*: (.*)$", text, re.M)
    flags = match[1].split() if match else []
    return next((name for flag, name in INT8_INSTRUCTIONS.items() if flag in flags), platform.machine())


def open_images(trained: Trained, data_root: Path, split: Literal["train", "val"], why: str) -> ImageSet:
    """A split of the network's data set. Raises DataError that says what it is needed for."""
    try:
        return open_split(data_root, split, **trained.recipe.data.sources(data_root))
    except DataError as error:
        raise DataError(f"{why}: {error.message}", "name the folder with train/ and val/ by --data ROOT") from None


def draw_validation(trained: Trained, data_root: Path, count: int, max_loss: float, num_threads: int) -> Validation:
    """Up to `count` validation images, evenly spaced. Raises DataError if there are none."""
    split = open_images(trained, data_root, "val", "what fp16 and int8 lose is measured on validation images")
    check_classes(split, trained.classes, trained.checkpoint)
    return Validation(trained, split.spread(count), max_loss, num_threads)
