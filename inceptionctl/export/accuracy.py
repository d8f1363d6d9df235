"""What an export in fewer bits costs: the checkpoint and it on the same labelled validation images."""

from __future__ import annotations

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
from inceptionctl.evaluate.preparation import preparation_of
from inceptionctl.evaluate.trained import Trained
from inceptionctl.export.description import Accuracy
from inceptionctl.export.forms import Logits

BATCH_SIZE = 16


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
        top1_checkpoint, top1 = (100.0 * float((answer == labels).double().mean()) for answer in (ours, theirs))
        return Accuracy(
            num_images=len(labels),
            top1_checkpoint=top1_checkpoint,
            top1=top1,
            loss=top1_checkpoint - top1,
            agreement=100.0 * float((ours == theirs).double().mean()),
            max_difference=None if takes_pixels else float((found - expected).abs().max()),
            max_probability_difference=float((found.softmax(1) - expected.softmax(1)).abs().max()),
        )

    def judge(self, file: str, by: str, accuracy: Accuracy) -> None:
        """Raise CheckpointError when it loses more than it may."""
        if accuracy.loss > self.max_loss:
            raise CheckpointError(
                f"{file} loses {accuracy.loss:.2f} points of top-1 accuracy in {by} ({accuracy.top1_checkpoint:.2f}% to"
                f" {accuracy.top1:.2f}% of {accuracy.num_images} validation images), more than --max-accuracy-loss"
                f" {self.max_loss:g}; it was not written",
                "allow more, take --precision fp16, or for int8 more --calibration-images",
            )

    def _inputs(self, takes_pixels: bool) -> Iterator[Tensor]:
        load = load_pictures if takes_pixels else load_set
        return load(self.images, preparation_of(self.trained.recipe), batch_size=BATCH_SIZE, num_threads=self.num_threads)


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
