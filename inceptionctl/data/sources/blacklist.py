"""The validation images that ImageNet's development kit lists as bad, and the numbers of its images."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import numpy as np

from inceptionctl.data.imageset import ImageSet
from inceptionctl.errors import DataError
from inceptionctl.nearby import did_you_mean

Subset = Literal["all", "non-blacklisted"]

NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})\.")


BLACKLIST = "ILSVRC20??_clsloc_validation_blacklist.txt"


def find_blacklist(root: Path) -> Path:
    """The development kit's list in a data root, or in the kit's own folders there. Raises DataError when there is none."""
    for place in ("", "*/", "*/data/"):
        for file in sorted(root.glob(place + BLACKLIST)):
            return file
    raise DataError(
        f"{root} has no {BLACKLIST}",
        "it comes with ImageNet's development kit: name it with evaluate.blacklist in the recipe, or `evaluate --blacklist FILE`",
    )


def subset_of(images: ImageSet, subset: Subset, blacklist: Path | None = None) -> ImageSet:
    """The validation images that `subset` names. Raises DataError where the list is missing or not of these images."""
    return images if subset == "all" else without_blacklisted(images, blacklist or find_blacklist(images.root))


def without_blacklisted(images: ImageSet, file: Path) -> ImageSet:
    """The validation images but those whose numbers, from 1 on, `file` lists, one a line: the paper's single-crop tables leave them out.

    The development kit's list has 1,762; those that `data.exclusions` leaves out may be among them. Raises DataError for anything else
    than such a list, and for images that it is not of.
    """
    places = {number: i for i, number in enumerate(image_numbers(images))}
    listed: list[int] = []
    for line, text in enumerate(text_of(file).splitlines(), start=1):
        if not text.strip():
            continue
        if not text.strip().isdecimal():
            raise DataError(f"{file}:{line}: {text.strip()[:40]!r} is no number of an image", "name the development kit's list")
        listed.append(int(text))
    excluded = {int(found[1]) for name in images.left_out if (found := NUMBER.search(name))}
    missing = [number for number in listed if number not in places and number not in excluded]
    if missing or not listed:
        what = f"lists image {missing[0]}, which is not among the {len(images)} in {images.folder}" if missing else "is empty"
        raise DataError(f"{file} {what}", "its numbers start at 1, and all images must be there")
    return images.without(np.array(sorted({places[number] for number in listed if number in places}), dtype=np.int64))


def image_numbers(images: ImageSet) -> list[int]:
    """Numbers of the validation images from their names. Raises DataError when one has another name, or two have the same number."""
    numbers = []
    for i in range(len(images)):
        found = NUMBER.search(images.name(i))
        if not found:
            raise DataError(
                f"{images.name(i)} is not named like ILSVRC2012_val_00000001.JPEG, so its number is not known",
                "lists of images go by the original names",
            )
        numbers.append(int(found[1]))
    if len(set(numbers)) != len(numbers):
        raise DataError(f"two images in {images.folder} have the same number", "keep one file of each")
    return numbers


def text_of(file: Path) -> str:
    """Of a list. Raises DataError when it cannot be read."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"cannot read {file}: {said}", f"{did_you_mean(file)}name the list's file") from None
