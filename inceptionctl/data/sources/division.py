"""A validation split for data that has none: a fraction of each class, chosen by a hash of the images themselves."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from re import Pattern

import numpy as np
from numpy.typing import NDArray

from inceptionctl.data.imageset import ImageSet, Split
from inceptionctl.data.sources import index_cache
from inceptionctl.data.sources.class_lists import some
from inceptionctl.data.sources.exclusions import name_below
from inceptionctl.errors import DataError, RecipeError
from inceptionctl.storage import temporary_file

Hashes = NDArray[np.uint64]

_READERS = 16  # a network file system answers many at once
_FILE = "content.npz"


def divided(
    whole: ImageSet, split: Split, fraction: float, group_by: str | None = None, groups: Sequence[str] | None = None
) -> ImageSet:
    """The training or validation images of `whole`, which has no validation split: `fraction` of the images, of each class alike.

    An image's bytes decide, so images that are added later move no others, and copies of an image never lie on both sides. With
    `group_by`, a regular expression, what its first group matches in the name below the root decides: images of one group stay together.
    So do those with equal values in `groups`, one for each image.

    Raises RecipeError for an expression that is none or matches no group in a name, DataError when a class is left without training images.
    """
    if group_by:
        hashes = _of_groups(whole, _compiled(group_by))
    elif groups is not None:
        hashes = np.array([_hash(value.encode(errors="surrogateescape")) for value in groups], np.uint64)
    else:
        hashes = _of_content(whole)
    is_val = hashes < np.uint64(min(fraction, 1.0) * 2.0**64)
    counts = np.bincount(whole.labels[~is_val], minlength=len(whole.classes))
    if not counts.all():
        empty = [whole.classes[label] for label in np.flatnonzero(counts == 0)]
        raise DataError(
            f"data.val_fraction {fraction:g} leaves no training images in {some(empty)}",
            "lower it, or add images: small classes may end up on one side",
        )
    side = np.flatnonzero(is_val if split == "val" else ~is_val)
    num_groups = len(np.unique(hashes[side])) if group_by or groups is not None else None
    return replace(whole.picked(side.tolist()), split=split, num_groups=num_groups)


def classes_without(images: ImageSet) -> list[str]:
    """Classes of which there is no image."""
    return [images.classes[label] for label in np.flatnonzero(images.class_counts() == 0)]


def _compiled(group_by: str) -> Pattern[bytes]:
    try:
        pattern = re.compile(os.fsencode(group_by))
    except re.error as error:
        raise RecipeError(f"data.group_by '{group_by}' is no regular expression: {error}", _EXAMPLE) from None
    if pattern.groups < 1:
        raise RecipeError(f"data.group_by '{group_by}' has no group", _EXAMPLE)
    return pattern


_EXAMPLE = r"the name up to the last underscore: '(.*)_'; put what belongs together into parentheses"


def _of_groups(images: ImageSet, pattern: Pattern[bytes]) -> Hashes:
    found = np.empty(len(images), np.uint64)
    for i in range(len(images)):
        name = name_below(images, i)
        match = pattern.search(name)
        if match is None or match[1] is None:
            shown = os.fsdecode(name)
            raise RecipeError(f"data.group_by '{os.fsdecode(pattern.pattern)}' matches nothing in {shown}", _EXAMPLE)
        found[i] = _hash(match[1])
    return found


def _hash(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def _of_content(images: ImageSet) -> Hashes:
    """Hashes of all images; of a large data set they are kept on disk, and only what has changed is read again."""
    stamps = _stamps(images)
    known = _kept(images.root)
    places = np.searchsorted(known[0], stamps)
    places[places == len(known[0])] = 0
    is_known = known[0][places] == stamps if len(known[0]) else np.zeros(len(stamps), bool)
    hashes = known[1][places] if len(known[0]) else np.zeros(len(stamps), np.uint64)
    missing = np.flatnonzero(~is_known)
    with ThreadPoolExecutor(_READERS) as pool:
        hashes[missing] = list(pool.map(lambda i: _of_image(images, int(i)), missing))
    if len(missing) and len(images) >= index_cache.WORTH_KEEPING:
        _keep(images.root, stamps, hashes)
    return hashes


def _of_image(images: ImageSet, i: int) -> int:
    try:
        return _hash(images.read(i))
    except DataError:  # for whoever decodes it; here it needs a side like every other
        return _hash(name_below(images, i))


def _stamps(images: ImageSet) -> Hashes:
    """A number for each image that changes with its name, its size or its time."""
    found = np.empty(len(images), np.uint64)
    for i in range(len(images)):
        span = images.span(i)
        with suppress(OSError):
            stat = os.stat(span.path)  # noqa: PTH116  (a name in bytes)
            told = b"%s!%s %d %d" % (span.path, span.member, stat.st_size, stat.st_mtime_ns)
            found[i] = _hash(told)
            continue
        found[i] = _hash(span.path)
    return found


def _kept(root: Path) -> tuple[Hashes, Hashes]:
    for file in index_cache.places(root, _FILE):
        with suppress(OSError, ValueError, KeyError), np.load(file, allow_pickle=False) as arrays:
            return arrays["stamps"], arrays["hashes"]
    return np.empty(0, np.uint64), np.empty(0, np.uint64)


def _keep(root: Path, stamps: Hashes, hashes: Hashes) -> None:
    order = np.argsort(stamps)
    for file in index_cache.places(root, _FILE):
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            with temporary_file(file) as temporary, temporary.open("wb") as opened:
                np.savez(opened, stamps=stamps[order], hashes=hashes[order])
            return
