"""Lists of images to be left out: a user's own (`data.exclusions`), and the blacklist of ImageNet's development kit.

A user's list holds a name a line, below the data set's root; `#` begins a comment.

An image in a shard is named `shard.tar!member`. What a line of text cannot hold is escaped: \\n, \\r, \\t, \\\\ and \\xNN for any
other byte, so that every name that a file system knows can be written.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from inceptionctl.data.imageset import ImageSet
from inceptionctl.data.sources import index_cache
from inceptionctl.data.sources.class_lists import some, text_of
from inceptionctl.errors import DataError
from inceptionctl.nearby import did_you_mean
from inceptionctl.words import counted

_HEADER = (
    "# Images that are left out: set data.exclusions of a recipe to this file.",
    "# A name a line, below the root of the data set; an image in a shard is shard.tar!member.",
)
_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\"}
_MEANINGS = {written[1]: plain for plain, written in _ESCAPES.items()}
_WRITTEN = re.compile(r"\\(x[0-9a-fA-F]{2}|[nrt\\])")
_OUTER = re.compile(r"^[\s#]|\s$")  # what would be stripped, or taken for a comment
_NAMES_AT_ONCE = 1 << 16

Subset = Literal["all", "non-blacklisted"]
NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})\.")
BLACKLIST = "ILSVRC20??_clsloc_validation_blacklist.txt"


def escaped(name: bytes) -> str:
    """A name as one line of text, which `unescaped` undoes."""
    text = "".join(_ESCAPES.get(char, char) for char in os.fsdecode(name))
    # What fsdecode could not decode came as a lone surrogate; other characters that cannot be seen are left alone.
    text = "".join(f"\\x{ord(char) - 0xDC00:02x}" if 0xDC80 <= ord(char) <= 0xDCFF else char for char in text)
    return _OUTER.sub(lambda match: "".join(f"\\x{byte:02x}" for byte in match[0].encode()), text)


def unescaped(line: str) -> bytes:
    """The name that a line stands for."""
    if "\\" not in line:
        return os.fsencode(line)
    parts = _WRITTEN.split(line)
    return b"".join(os.fsencode(part) if i % 2 == 0 else _meant(part) for i, part in enumerate(parts))


def _meant(code: str) -> bytes:
    return bytes.fromhex(code[1:]) if code.startswith("x") else _MEANINGS[code].encode()


def listing(images: Iterable[tuple[str, str]]) -> str:
    """The text of a list of (escaped name, why); a reason that several in succession share is written once."""
    lines, last = [*_HEADER], ""
    for name, why in images:
        if why != last:
            lines.append(f"# {' '.join(why.split())}")
        lines.append(name)
        last = why
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Exclusions:
    """A list that was read."""

    file: Path
    names: frozenset[bytes]
    sha256: str


def read_exclusions(file: Path, root: Path) -> Exclusions:
    """Raises DataError when the file cannot be read. Absolute names below `root` are taken too."""
    try:
        content = file.read_bytes()
    except OSError as fault:
        raise DataError(
            f"cannot read the list of exclusions {file}: {fault.strerror}",
            f"{did_you_mean(file)}`inceptionctl data check {root} --write-exclusions {file}` writes one",
        ) from fault
    lines = (line.strip() for line in content.decode("utf-8-sig", errors="surrogateescape").split("\n"))
    base = os.path.abspath(os.fsencode(root)) + b"/"  # noqa: PTH100  (links stay as they are)
    names = (unescaped(line.removeprefix("./")).removeprefix(base) for line in lines if line and not line.startswith("#"))
    return Exclusions(file, frozenset(names), hashlib.sha256(content).hexdigest())


def name_below(images: ImageSet, i: int) -> bytes:
    """What a list calls the i-th image: its file below the data set's root, or its absolute name, and its place in a shard."""
    span = images.span(i)
    base = os.path.abspath(os.fsencode(images.root)) + b"/"  # noqa: PTH100  (links stay as they are)
    file = os.path.abspath(span.path).removeprefix(base)  # noqa: PTH100
    return file + b"!" + span.member if span.member else file


def leave_out(images: ImageSet, exclusions: Exclusions) -> ImageSet:
    """The images without those named. Of a list that is kept on disk, what is left is kept too, so that ranks share it.

    Raises DataError when a class of training images is left without any.
    """
    if not images.made_of:
        return _without(images, exclusions)
    made_of = index_cache.fingerprint("exclusions", images.made_of, exclusions.sha256)
    return index_cache.kept(
        images.root, images.split, made_of, lambda: _without(images, exclusions), name=f"{images.split}.without"
    )


def _without(images: ImageSet, exclusions: Exclusions) -> ImageSet:
    index = _places(images, exclusions.names)
    rest = images.without(index)
    emptied = np.flatnonzero((images.class_counts() > 0) & (rest.class_counts() == 0))
    if images.split == "train" and len(emptied):
        raise DataError(
            f"{exclusions.file} leaves no training images in {some([images.classes[label] for label in emptied])}",
            "take some names off the list, or the class out of the data set",
        )
    return replace(rest, left_out=tuple(escaped(name_below(images, int(i))) for i in index))


def _places(images: ImageSet, names: frozenset[bytes]) -> NDArray[np.int64]:
    """Where the images of these names are, sorted. A million images take a fifth of a second: only last parts are compared."""
    if images.pieces is None:
        last_parts = {name.rpartition(b"/")[2] for name in names}
        whole = images.class_folders  # else names may hold folders
    else:
        last_parts = {name[at + 1 :] for name in names for at in range(len(name)) if name[at] == ord("!")}
        whole = True
    found: list[int] = []
    for start in range(0, len(images), _NAMES_AT_ONCE):
        parts = images.names.slice(start, start + _NAMES_AT_ONCE)
        if not whole:
            parts = [part.rpartition(b"/")[2] for part in parts]
        found += [start + i for i, part in enumerate(parts) if part in last_parts]
    return np.array([i for i in found if name_below(images, i) in names], dtype=np.int64)


def check_used(exclusions: Exclusions, *splits: ImageSet) -> None:
    """Raise DataError when most names of a list are in none of the splits: it was made for other data, or another form of them."""
    there = {unescaped(name) for split in splits for name in split.left_out}
    missing = sorted(exclusions.names - there)
    if 2 * len(missing) > len(exclusions.names):
        shown = some([escaped(name) for name in missing], 3)
        raise DataError(
            f"{exclusions.file} names {counted(len(exclusions.names), 'image')}, {len(missing)} of which"
            f" {'is' if len(missing) == 1 else 'are'} not in {splits[0].root}: {shown}",
            "names are relative to data.root, and in shards `shard.tar!member`: a list is for one form of a data set;"
            f" `inceptionctl data check {splits[0].root} --write-exclusions FILE` makes another",
        )


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
    for line, text in enumerate(text_of(file, "evaluate.blacklist").splitlines(), start=1):
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
