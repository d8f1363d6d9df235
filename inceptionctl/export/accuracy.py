"""What an export in fewer bits costs: the checkpoint and it on the same labelled validation images."""

from __future__ import annotations

import math
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from inceptionctl.data.dataset import open_split
from inceptionctl.data.imageset import ImageSet
from inceptionctl.errors import CheckpointError, DataError
from inceptionctl.evaluate.evaluation import check_classes
from inceptionctl.evaluate.images import load_pictures, load_set
from inceptionctl.evaluate.trained import Trained
from inceptionctl.export.description import Accuracy
from inceptionctl.export.forms import Logits
from inceptionctl.train.inputs import preparation_of
from inceptionctl.words import percent

BATCH_SIZE = 16
# Two-sided 95% of the normal distribution.
Z95 = 1.959964
# In Linux' names, the widest first: which of them multiplies 8-bit integers decides how an int8 file rounds, and whether it is fast.
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
    """Labelled images to judge exports by, and the most that one may lose on them."""

    trained: Trained
    """On the CPU, fp32."""
    images: ImageSet
    max_loss: float
    """Percentage points of top-1 accuracy."""
    num_threads: int

    @cached_property
    def expected(self) -> Tensor:
        """The checkpoint's logits: float32 [N, classes]. Asked for once, whatever the number of exports."""
        with torch.inference_mode():
            return torch.cat([self.trained.model(batch) for batch in self._inputs(takes_pixels=False)])

    def measure(self, logits: Logits, takes_pixels: bool) -> Accuracy:
        """The export beside the checkpoint. Raises DataError for an image that cannot be decoded, CheckpointError for NaNs."""
        found, expected = torch.cat([logits(batch) for batch in self._inputs(takes_pixels)]), self.expected
        if not found.isfinite().all():
            raise CheckpointError(
                "the export gives values that are not finite: its numbers overflow; it was not written",
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
        """A remark when it loses more than it may and that can be chance.

        Raises CheckpointError when it cannot: the whole interval is above `max_loss`.
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
        load = load_pictures if takes_pixels else load_set
        return load(self.images, preparation_of(self.trained.recipe), batch_size=BATCH_SIZE, num_threads=self.num_threads)


def loss_interval(lost: int, gained: int, num_images: int) -> tuple[float, float]:
    """95% interval, in percentage points, of the accuracy that an export loses against its checkpoint on the same images.

    `lost`: images that the checkpoint alone names rightly; `gained`: the export alone. Images on which both are right or both wrong
    say nothing of the difference. The adjusted Wald interval of Bonett and Price (2012), which holds for few images too, even where
    nothing is lost: doi.org/10.3102/1076998611411915.
    """
    n = num_images + 2
    of_lost, of_gained = (lost + 1) / n, (gained + 1) / n
    half = Z95 * math.sqrt((of_lost + of_gained - (of_lost - of_gained) ** 2) / n)
    middle = of_lost - of_gained
    return 100.0 * max(middle - half, -1.0), 100.0 * min(middle + half, 1.0)


def instruction_set(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """What this processor multiplies 8-bit integers with, as `AVX512-VNNI`; the architecture where that is not known."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.machine()
    match = re.search(r"^(?:flags|Features)\s*: (.*)$", text, re.M)
    flags = match[1].split() if match else []
    return next((name for flag, name in INT8_INSTRUCTIONS.items() if flag in flags), platform.machine())


def draw_validation(trained: Trained, data_root: Path, count: int, max_loss: float, num_threads: int) -> Validation:
    """Up to `count` validation images, evenly spaced. Raises DataError where there are none."""
    try:
        split = open_split(data_root, "val", **trained.recipe.data.sources(data_root))
    except DataError as error:
        raise DataError(
            f"what fp16 and int8 lose is measured on validation images: {error.message}",
            "name the folder with train/ and val/ by --data ROOT",
        ) from None
    check_classes(split, trained.classes, trained.checkpoint)
    return Validation(trained, split.spread(count), max_loss, num_threads)
