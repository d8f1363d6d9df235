"""TFRecords as tf-slim and the TPU tools write ImageNet: `train-00000-of-01024`, `validation-00000-of-00128`; read by offset.

A record is a length (8 bytes) with its checksum (4), then a tf.train.Example in protobuf's wire format and a checksum (4). Only what
leads to `image/encoded` and the label is read of it: an index of ImageNet skips 140 GB of pixels. Feature names are those of
tf-slim's build_imagenet_data.py: image/encoded, image/filename, image/class/label (from 1; 0 is the background), image/class/synset.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from inceptionctl.data.imageset import ImageSet, Names, Pieces, PlacedNames, Split
from inceptionctl.data.sources import index_cache
from inceptionctl.data.sources.class_lists import ClassList, check_order
from inceptionctl.data.sources.shards import NAMES_OF
from inceptionctl.data.sources.tars import opened
from inceptionctl.errors import DataError

_FILES_AT_ONCE = 8
_WINDOW = 4096
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_IMAGE, _LABEL, _SYNSET, _NAME = b"image/encoded", b"image/class/label", b"image/class/synset", b"image/filename"


class Example(NamedTuple):
    """One record: where its image lies, and what it says of it."""

    name: bytes
    offset: int
    size: int
    label: int
    synset: str


def find_records(root: Path, split: Split) -> list[Path]:
    """The files of a split in the order of their names; none when there are none. Raises DataError when some are missing."""
    form = re.compile(rf"(?:.*[-_.])?(?:{'|'.join(NAMES_OF[split])})(?:\.tfrecord)?-(\d{{5}})-of-(\d{{5}})")
    folders = [root, *(root / name for name in NAMES_OF[split] if (root / name).is_dir())]
    found = (file for folder in folders for file in folder.iterdir() if not file.name.startswith("."))
    matched = sorted((file, match) for file in found if (match := form.fullmatch(file.name)))
    if matched:
        total, there = int(matched[0][1][2]), {int(match[1]) for _, match in matched}
        missing = sorted(set(range(total)) - there)
        if missing:
            raise DataError(
                f"{matched[0][0].parent} lacks {len(missing)} of the {total} TFRecord files of {split}, the first is number {missing[0]}",
                "an epoch is all of them: fetch the missing files",
            )
    return [file for file, _ in matched]


def open_records(root: Path, split: Split, files: Sequence[Path], class_list: ClassList) -> ImageSet:
    """Index the files of a split, or take the index that was kept. Raises DataError on a damaged file or contradicting labels."""
    times = index_cache.times_of([*files, *([class_list.file] if class_list.file else [])])
    made_of = index_cache.fingerprint("tfrecord", class_list.order, times)
    return index_cache.kept(root, split, made_of, lambda: _index(root, split, files, class_list))


def _index(root: Path, split: Split, files: Sequence[Path], class_list: ClassList) -> ImageSet:
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        parts = list(pool.map(_Records, files))
    where = str(files[0].parent)
    labels = np.concatenate([part.labels for part in parts])
    if len(labels) == 0:
        raise DataError(f"the TFRecords of {where} hold no records", "fetch them again")
    synsets: dict[int, str] = {}
    for part in parts:
        for label, synset in part.synsets.items():
            if synsets.setdefault(label, synset) != synset:
                raise DataError(f"{where}: label {label} is '{synsets[label]}' in one record and '{synset}' in another")
    numbers, classes = _numbered(labels, synsets, class_list, where)
    pieces = Pieces.of(root, files, parts)
    names = Names.joined(part.names for part in parts)
    return ImageSet(root, split, files[0].parent, classes, numbers, names, class_folders=False, pieces=pieces)


def _numbered(
    labels: NDArray[np.int64], synsets: dict[int, str], class_list: ClassList, where: str
) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Labels from 0 and the names of the classes. tf-slim's begin at 1; without names, the numbers as stored are the names."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= 2**31:
        raise DataError(f"{where} has labels from {low} to {high}", "labels are 1, 2, ... (0 is the background), or 0, 1, ...")
    if class_list.names is not None:
        first = high - len(class_list.names) + 1 if high - len(class_list.names) + 1 in (0, 1) else min(low, 1)
        classes = class_list.settle(class_list.names, where, all_of_them=False)
        if low < first or high - first >= len(classes):
            raise DataError(f"{where} has labels from {low} to {high}, but {class_list.file} names {len(classes)} classes")
        for label, synset in sorted(synsets.items()):
            if classes[label - first] != synset:
                raise DataError(
                    f"{where}: label {label} is '{synset}' there, and '{classes[label - first]}' in {class_list.file}",
                    "leave data.class_names out: the records name their classes themselves",
                )
    else:
        first = min(low, 1)
        stored = range(first, high + 1)
        classes = tuple(synsets.get(label, str(label)) for label in stored)
        if len(synsets) == len(stored):
            check_order(classes, where, class_list.order)
    return (labels - first).astype(np.int32), classes


class _Records(PlacedNames):
    """The records of one file as arrays."""

    def __init__(self, file: Path) -> None:
        with opened(file) as descriptor:
            samples = list(_samples(descriptor, file))
        super().__init__(samples)
        self.labels = np.fromiter((sample.label for sample in samples), np.int64, len(samples))
        self.synsets = {sample.label: sample.synset for sample in samples if sample.synset}


def _samples(descriptor: int, file: Path) -> Iterator[Example]:
    at, end, number = 0, os.fstat(descriptor).st_size, 0
    window = _Window(descriptor)
    while at < end:
        head = window.get(at, min(12, end - at))
        length = int.from_bytes(head[:8], "little")
        if len(head) < 12 or masked_crc(head[:8]) != int.from_bytes(head[8:], "little"):
            raise DataError(f"{file} is no TFRecord file, or damaged at byte {at}", "fetch it again")
        if at + 12 + length + 4 > end:
            raise DataError(f"{file} is cut short: record {number} does not end in it", "fetch it again")
        try:
            yield _example(window, at + 12, at + 12 + length, number)
        except (ValueError, KeyError, IndexError) as fault:
            what = f"it has no {fault.args[0]!r}" if isinstance(fault, KeyError) else "it is no tf.train.Example"
            raise DataError(
                f"{file}, record {number} cannot be used: {what}", "image/encoded and image/class/label are needed"
            ) from None
        at, number = at + 12 + length + 4, number + 1


def _example(window: _Window, start: int, end: int, number: int) -> Example:
    """What a tf.train.Example (features = 1: map feature = 1 of key = 1, value = 2) says of its image."""
    places: dict[bytes, tuple[int, int]] = {}
    for _, features, features_end in _fields(window, start, end, 1):
        for _, entry, entry_end in _fields(window, features, features_end, 1):
            parts = {field: (at, to) for field, at, to in _fields(window, entry, entry_end)}
            if 1 in parts and 2 in parts:
                places[window.between(parts[1])] = parts[2]
    image = _first(window, _place(places, _IMAGE), 1)
    (label_at, label_end) = _first(window, _place(places, _LABEL), 3)
    # Packed, as every writer does since proto3, or one varint.
    label, _ = _varint(window, label_at)
    texts = [window.between(_first(window, places[key], 1)) if key in places else b"" for key in (_SYNSET, _NAME)]
    if image[1] <= image[0] or label_end <= label_at:
        raise ValueError("empty")
    return Example(texts[1] or f"record {number}".encode(), image[0], image[1] - image[0], label, os.fsdecode(texts[0]))


def _place(places: dict[bytes, tuple[int, int]], key: bytes) -> tuple[int, int]:
    if key not in places:
        raise KeyError(key.decode())
    return places[key]


def _first(window: _Window, feature: tuple[int, int], kind: int) -> tuple[int, int]:
    """Where the first value of a tf.train.Feature lies: bytes_list = 1, int64_list = 3, each with value = 1."""
    for _, start, end in _fields(window, *feature, kind):
        for _, at, to in _fields(window, start, end, 1):
            return at, to
    raise ValueError("a feature without a value, or of another type")


def _fields(window: _Window, at: int, end: int, wanted: int | None = None) -> Iterator[tuple[int, int, int]]:
    """(number, start, end) of the fields of a message; of those with a length, where the bytes lie."""
    while at < end:
        tag, at = _varint(window, at)
        number, kind = tag >> 3, tag & 7
        if kind == _BYTES:
            length, at = _varint(window, at)
            to = at + length
        elif kind == _VARINT:
            _, to = _varint(window, at)
        elif kind in (_FIXED64, _FIXED32):
            to = at + (8 if kind == _FIXED64 else 4)
        else:
            raise ValueError(kind)
        if to > end:
            raise ValueError("a field ends outside of its message")
        if wanted is None or number == wanted:
            yield number, at, to
        at = to


def _varint(window: _Window, at: int) -> tuple[int, int]:
    value = 0
    for place, byte in enumerate(window.get(at, 10)):
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, at + place + 1
    raise ValueError("a number without end")


class _Window:
    """A few kilobytes of a file at a time: records are long, and what is wanted of them is short."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._start, self._held = 0, b""

    def get(self, at: int, count: int) -> bytes:
        """`count` bytes from `at` on; fewer at the end of the file."""
        if not self._start <= at or at + count > self._start + len(self._held):
            self._start, self._held = at, os.pread(self._descriptor, max(_WINDOW, count), at)
        return self._held[at - self._start : at - self._start + count]

    def between(self, place: tuple[int, int]) -> bytes:
        """The bytes of a field."""
        return self.get(place[0], place[1] - place[0])


def masked_crc(data: bytes) -> int:
    """CRC-32C (Castagnoli), rotated and offset as TFRecords have it. For a few bytes: it takes them one by one."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _crc_row(value: int) -> int:
    for _ in range(8):
        value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    return value


_CRC_TABLE = tuple(map(_crc_row, range(256)))
