"""The images of one split, held compactly: labels, names, and where the bytes of each lie. Needs numpy and the standard library."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from inceptionctl.data import reasons
from inceptionctl.errors import DataError
from inceptionctl.nearby import did_you_mean

Split = Literal["train", "val"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_SUFFIXES = tuple(os.fsencode(suffix) for suffix in SUFFIXES)
# Files of these are not listed, though whoever put them there means them as images: they are counted, so that nobody misses them in vain.
_PICTURES = frozenset(
    b".jfif .jpe .jif .jfi .pjpeg .pjp .jp2 .j2k .jpf .jpx .jxl .heic .heif .hif .avif .gif .apng .dib .ppm .pgm .pbm .pnm .tga .ico"
    b" .svg .psd .eps .exr .hdr .dng .cr2 .cr3 .nef .arw .raw .dcm".split()
)
NESTED = "folders inside class folders"
BESIDE = "images outside class folders"


class Span(NamedTuple):
    """Where the bytes of one image lie: a whole file, or a piece of one."""

    path: bytes
    """The file as the file system spells it (names need not be UTF-8)."""
    offset: int = 0
    length: int | None = None
    """Bytes; None is the whole file."""
    member: bytes = b""
    """Name of the image in a file of many."""

    @property
    def name(self) -> str:
        """For messages: the file, or `shard.tar!member`."""
        return reasons.shown(self.path + (b"!" + self.member if self.member else b""))


class Names:
    """Many names in one block of bytes: ImageNet's 1.28 million take 35 MB instead of 100 and more.

    Both arrays may be memory-mapped, so that the ranks of a machine share them and untouched names take no memory at all.
    """

    def __init__(self, block: NDArray[np.uint8], ends: NDArray[np.unsignedinteger]) -> None:
        """`block` holds the names one after another, `ends[i]` is where the i-th one ends."""
        self.block, self.ends = block, ends

    @classmethod
    def of(cls, names: Iterable[bytes]) -> Names:
        """Names that lie in memory."""
        listed = list(names)
        block = np.frombuffer(b"".join(listed), dtype=np.uint8)
        return cls(block, smallest(np.cumsum(np.fromiter(map(len, listed), dtype=np.int64, count=len(listed)))))

    @classmethod
    def joined(cls, parts: Iterable[Names]) -> Names:
        """Several lists of names as one."""
        listed = list(parts)
        starts = np.cumsum([0, *(len(part.block) for part in listed)])[: len(listed)]
        ends = [part.ends.astype(np.int64) + start for part, start in zip(listed, starts, strict=True)]
        return cls(np.concatenate([part.block for part in listed]), smallest(np.concatenate(ends)))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, i: int) -> bytes:
        return self.block[int(self.ends[i - 1]) if i else 0 : int(self.ends[i])].tobytes()

    def slice(self, start: int, stop: int) -> list[bytes]:
        """Names in succession; an eighth of the time that they take one by one."""
        ends = self.ends[start:stop].astype(np.int64)
        first = int(self.ends[start - 1]) if start else 0
        block = self.block[first : int(ends[-1]) if len(ends) else first].tobytes()
        places = (ends - first).tolist()
        return [block[begin:end] for begin, end in zip([0, *places[:-1]], places, strict=True)]

    def without(self, index: NDArray[np.int64]) -> Names:
        """All but some names."""
        ends = self.ends.astype(np.int64)
        lengths = np.diff(ends, prepend=0)
        kept = np.ones(len(self.block), dtype=bool)
        for i in index.tolist():
            kept[ends[i] - lengths[i] : ends[i]] = False
        return Names(self.block[kept], smallest(np.cumsum(np.delete(lengths, index))))


def smallest(values: NDArray[np.int64]) -> NDArray[np.unsignedinteger]:
    """Numbers from 0 on in four bytes each where they fit, else in eight."""
    fits = len(values) == 0 or int(values.max()) < 2**32
    return values.astype(np.uint32 if fits else np.uint64)


class PlacedNames:
    """The images in one file of many: their names, and where they lie in it."""

    def __init__(self, listed: Sequence[tuple[Any, ...]]) -> None:
        """`listed` are tuples that begin with name, offset and bytes."""
        self.names = Names.of(one[0] for one in listed)
        self.offsets, self.sizes = (np.fromiter((one[k] for one in listed), np.int64, len(listed)) for k in (1, 2))


@dataclass(frozen=True, eq=False)
class Pieces:
    """Images that lie inside of larger files (shards), in the order of the images."""

    files: tuple[str, ...]
    """The shards, below the data set's root."""
    firsts: NDArray[np.int64]
    """Index of the first image of each shard, int64 [shards]."""
    offsets: NDArray[np.unsignedinteger]
    """Where an image begins in its shard, [N]."""
    lengths: NDArray[np.unsignedinteger]
    """Bytes of an image, [N]."""

    @classmethod
    def of(cls, root: Path, files: Sequence[Path], parts: Sequence[PlacedNames]) -> Pieces:
        """Of images in several files below `root`, one part a file."""
        return cls(
            tuple(os.path.relpath(file, root) for file in files),
            np.cumsum([0, *(len(part.names) for part in parts)])[:-1].astype(np.int64),
            smallest(np.concatenate([part.offsets for part in parts])),
            smallest(np.concatenate([part.sizes for part in parts])),
        )

    def shard_of(self, index: int | NDArray[np.int64]) -> NDArray[np.int64]:
        """The place in `files` of the shard that holds an image, or of each of several."""
        return np.searchsorted(self.firsts, index, side="right") - 1


@dataclass(frozen=True, eq=False)
class ImageSet:
    """The images of one split: labels, names and places. Nothing of an image is read before it is asked for.

    Files are named below `folder`, those in class folders without the class, which the label tells.
    """

    root: Path
    """The data set."""
    split: Split
    folder: Path
    """What messages call the split: its folder, or the list that names its files."""
    classes: tuple[str, ...]
    """Names of the classes; the position is the label."""
    labels: NDArray[np.int32]
    """int32 [N]."""
    names: Names
    class_folders: bool = True
    """Whether the files lie in a folder for each class."""
    pieces: Pieces | None = None
    """Where the images lie in shards; None where each is a file of its own."""
    left_out: tuple[str, ...] = ()
    """Images that are not among these because a list excludes them, by name below the root (`exclusions.escaped`)."""
    made_of: str = ""
    """Fingerprint of the list where it is kept on disk; empty elsewhere."""
    passed_over: Mapping[str, int] = field(default_factory=dict)
    """How many files and folders are no part of it that may be meant to: by suffix (`.heic`), NESTED or BESIDE."""
    num_groups: int | None = None
    """How many groups they are of, where `data.val_fraction` has divided groups; None elsewhere."""

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def path(self, i: int) -> bytes:
        """The file that holds the i-th image, as the file system spells it."""
        if self.pieces is not None:
            return os.fsencode(self.root / self.pieces.files[int(self.pieces.shard_of(i))])
        parts = [os.fsencode(self.folder)]
        if self.class_folders:
            parts.append(os.fsencode(self.classes[self.labels[i]]))
        return os.path.join(*parts, self.names[i])  # noqa: PTH118  (bytes; a name may be absolute)

    def span(self, i: int) -> Span:
        """Where the bytes of the i-th image lie."""
        if self.pieces is None:
            return Span(self.path(i))
        return Span(self.path(i), int(self.pieces.offsets[i]), int(self.pieces.lengths[i]), self.names[i])

    def picked(self, index: Sequence[int]) -> ImageSet:
        """Some of the images, in the order asked for."""
        where, pieces = np.asarray(index, dtype=np.int64), None
        if self.pieces is not None:
            files = tuple(self.pieces.files[shard] for shard in self.pieces.shard_of(where).tolist())
            pieces = Pieces(files, np.arange(len(files)), self.pieces.offsets[where], self.pieces.lengths[where])
        names = Names.of(self.names[int(i)] for i in where)
        return replace(self, labels=self.labels[where], names=names, pieces=pieces, made_of="")

    def spread(self, most: int) -> ImageSet:
        """Up to `most` of the images, evenly spaced, so of every class alike; the same at every call."""
        count = min(most, len(self))
        return self.picked([i * len(self) // count for i in range(count)])

    def without(self, index: NDArray[np.int64]) -> ImageSet:
        """All but some of the images; `index` is sorted."""
        pieces = None
        if self.pieces is not None:
            firsts = self.pieces.firsts - np.searchsorted(index, self.pieces.firsts)
            offsets, lengths = (np.delete(part, index) for part in (self.pieces.offsets, self.pieces.lengths))
            pieces = Pieces(self.pieces.files, firsts, offsets, lengths)
        labels, names = np.delete(self.labels, index), self.names.without(index)
        return replace(self, labels=labels, names=names, pieces=pieces, made_of="")

    def read(self, i: int) -> bytes:
        """The i-th image as it is stored. Raises DataError when it cannot be read, or not all of it."""
        return read_span(self.span(i))

    def name(self, i: int) -> str:
        """The i-th image for messages."""
        return self.span(i).name

    def class_counts(self) -> NDArray[np.int64]:
        """Images of each class, int64 [number of classes]."""
        return np.bincount(self.labels, minlength=len(self.classes)).astype(np.int64)


def read_span(span: Span) -> bytes:
    """The bytes of one image. Raises DataError when they cannot be read, or not all of them."""
    try:
        with open(span.path, "rb") as file:  # noqa: PTH123  (a name in bytes)
            if span.length is None:
                return file.read()
            read = os.pread(file.fileno(), span.length, span.offset)
    except OSError as fault:
        raise _unreadable(span, reasons.os_words(span.path, fault)) from fault
    if len(read) < span.length:
        raise _unreadable(span, CUT_SHORT)
    return read


CUT_SHORT = "the file ends before the image does"


def _unreadable(span: Span, why: str) -> DataError:
    return DataError(f"cannot read {span.name}: {why}", "`inceptionctl data check` lists every image that cannot be read")


def refuse_missing_images(arguments: Sequence[Path]) -> None:
    """Raise DataError for images, or folders of them, that are not there."""
    missing = [path for path in arguments if not path.exists()]
    if missing:
        named = ", ".join(map(str, missing))
        raise DataError(f"no such image file: {named}", f"{did_you_mean(missing[0])}name image files or folders of them")


def is_image_name(name: bytes) -> bool:
    """Whether a file of this name is meant to be an image."""
    return name.lower().endswith(_SUFFIXES)


def picture_suffix(name: bytes) -> str | None:
    """The suffix of a file that is not listed and yet called like a picture, in lower case; None for any other file."""
    suffix = name[name.rfind(b".") :].lower() if b"." in name else b""
    return suffix.decode() if suffix in _PICTURES else None
