"""What lies in a data set and is no part of it, though it may be meant to: nothing is left out unsaid. Standard library only."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from inceptionctl.data import reasons
from inceptionctl.data.imageset import BESIDE, ImageSet, is_image_name, picture_suffix
from inceptionctl.data.sources.folders import in_words

IN_NESTED = "images in folders inside class folders"
UNNAMED = "images by their content, under another suffix"
OTHER = "other files"


@dataclass(frozen=True)
class PassedOver:
    """Files of one kind that are not listed: a suffix, or one of the words above."""

    what: str
    count: int
    example: str
    """Below the data set's root; empty where none is known."""


def passed_over(images: ImageSet) -> tuple[PassedOver, ...]:
    """All of a split, by kind. Of class folders every file that is not listed is looked at: those inside other folders, and the first bytes
    of those that are not called as images are.
    """
    if images.pieces is not None or not images.folder.is_dir():
        return tuple(PassedOver(what, count, "") for what, count in sorted(images.passed_over.items()))
    counts, examples = Counter[str](), dict[str, str]()
    for path, depth in _files(images.folder):
        what = _kind(path, depth - int(images.class_folders))
        if what:
            counts[what] += 1
            examples[what] = min(examples.get(what, "~"), reasons.shown(os.path.relpath(path, os.fsencode(images.root))))
    return tuple(PassedOver(what, counts[what], examples[what]) for what in sorted(counts))


def _files(folder: Path) -> Iterator[tuple[bytes, int]]:
    """Every file that is not hidden nor in a hidden folder, and how many folders deep it lies."""
    top, seen = os.fsencode(folder), set[tuple[int, int]]()
    for found, folders, files in os.walk(top, followlinks=True):
        told = os.stat(found)  # noqa: PTH116  (bytes)
        if (told.st_dev, told.st_ino) in seen:  # a link to a folder above would go round for ever
            folders.clear()
            continue
        seen.add((told.st_dev, told.st_ino))
        folders[:] = [name for name in folders if not name.startswith(b".")]
        depth = 0 if found == top else os.path.relpath(found, top).count(b"/") + 1
        for name in files:
            if not name.startswith(b"."):
                yield os.path.join(found, name), depth  # noqa: PTH118  (bytes)


def _kind(path: bytes, too_deep: int) -> str | None:
    """What a file is passed over as; None where it is listed. It lies `too_deep` folders below those that are listed, or -1: beside them."""
    image = is_image_name(path) or picture_suffix(path) is not None
    if image and too_deep:
        return IN_NESTED if too_deep > 0 else BESIDE
    if is_image_name(path):
        return None
    return picture_suffix(path) or (UNNAMED if reasons.look(path)[1] != "unknown" else OTHER)


def remark(splits: Iterable[ImageSet]) -> str | None:
    """One sentence on what the listing of splits has passed over, or None. Counts folders inside class folders, and looks into none."""
    parts = [f"{in_words(images.passed_over)} in {images.split}" for images in splits if images.passed_over]
    return f"passed over: {'; '.join(parts)}" if parts else None
