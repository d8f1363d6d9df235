"""Whether an export computes what the checkpoint computes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from inceptionctl.data.dataset import open_split
from inceptionctl.errors import CheckpointError, DataError
from inceptionctl.evaluate.images import load_images
from inceptionctl.evaluate.trained import Trained
from inceptionctl.export.forms import Logits

NUM_IMAGES = 8
MOST_DIFFERENCE = 1e-4
# Rounding grows with the numbers: logits in the hundreds may differ by more than those around ten, which trained networks give.
MOST_RELATIVE_DIFFERENCE = 1e-5


@dataclass(frozen=True)
class Sample:
    """Images to compare on, and the checkpoint's logits of them."""

    images: Tensor
    """float32 [N, 3, px, px] in [-1, 1], on the CPU, channels first in memory too."""
    source: str
    """Which images these are, in words."""
    expected: Tensor
    """float32 [N, number of classes], on the CPU."""

    @property
    def logit_spread(self) -> float:
        """By how much a logit differs between images at most. Near zero, any export agrees: the bias alone makes the logits."""
        return float((self.expected.amax(0) - self.expected.amin(0)).max())

    @property
    def most_difference(self) -> float:
        """The largest difference that is still rounding."""
        return max(MOST_DIFFERENCE, MOST_RELATIVE_DIFFERENCE * float(self.expected.abs().max()))

    @property
    def tells(self) -> bool:
        """Whether the logits differ between images by much more than an export may be off."""
        return self.logit_spread > 100.0 * self.most_difference


def draw_sample(trained: Trained, data_root: Path, num_threads: int) -> Sample:
    """Up to 8 validation images, evenly spaced; pseudo-random ones if those cannot be read. The network is on the CPU."""
    images, source = _images(trained, data_root, num_threads)
    with torch.inference_mode():
        return Sample(images, source, trained.model(images).float())


def _images(trained: Trained, data_root: Path, num_threads: int) -> tuple[Tensor, str]:
    px = trained.recipe.model.input_px
    try:
        split = open_split(data_root, "val")
        count = min(NUM_IMAGES, len(split))
        paths = [Path(split.path(i * len(split) // count).decode(errors="surrogateescape")) for i in range(count)]
        fraction = trained.recipe.evaluate.central_fraction
        loaded = list(load_images(paths, input_px=px, central_fraction=fraction, batch_size=count, num_threads=num_threads))
    except DataError as error:
        return pseudo_random_images(NUM_IMAGES, px), f"{NUM_IMAGES} pseudo-random images ({error.message.splitlines()[0]})"
    return torch.cat(loaded).contiguous(), f"{count} validation images of {data_root}"


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
    """`largest_difference`. Raises CheckpointError when it is more than rounding."""
    difference = largest_difference(logits, sample)
    if difference > sample.most_difference:
        raise CheckpointError(
            f"{name} does not agree with the checkpoint: logits differ by up to {difference:.2g} on {sample.source},"
            f" {sample.most_difference:.0e} is allowed; it was not written",
            "use another format, and report this: it is a bug of inceptionctl or of the exporting library",
        )
    return difference
