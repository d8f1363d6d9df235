"""The labels of ImageNet ReaL."""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor

from inceptionctl.data.imageset import ImageSet
from inceptionctl.data.sources.class_lists import text_of
from inceptionctl.data.sources.exclusions import image_numbers
from inceptionctl.errors import DataError
from inceptionctl.evaluate.results import RealErrors
from inceptionctl.words import percent


def real_errors(images: ImageSet, predicted: Tensor, file: Path) -> RealErrors:
    """Top-1 error in percent by the labels of ImageNet ReaL (arXiv 2006.07159), any of an image's being right, and of how many images.

    `file` is its real.json: a list of labels for each image in the order of their numbers, empty lists being left out. `predicted` is
    int64 [N]. Raises DataError when it does not fit the images.
    """
    try:
        labels = json.loads(text_of(file, "--real-labels"))
        sets = [frozenset(map(int, one)) for one in labels]
    except (ValueError, TypeError) as error:
        raise DataError(f"{file} holds no lists of labels: {error}", "name real.json of ImageNet ReaL") from None
    numbers = image_numbers(images)
    if max(numbers) > len(sets):
        raise DataError(
            f"{file} has labels for {len(sets)} images, but there is a number {max(numbers)}", "name real.json whole"
        )
    highest = max((label for one in sets for label in one), default=-1)
    if highest >= len(images.classes):
        raise DataError(f"{file} names class {highest}, the data has {len(images.classes)}", "evaluate all 1,000 classes")
    hits = [guess in sets[number - 1] for number, guess in zip(numbers, predicted.tolist(), strict=True) if sets[number - 1]]
    if not hits:
        raise DataError(f"{file} has no labels for these images", "name real.json of ImageNet ReaL")
    return {"real_top1_error": percent(hits.count(False), len(hits)), "real_num_images": len(hits)}
