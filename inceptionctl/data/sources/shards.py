"""WebDataset shards: tar files whose members `key.jpg` and `key.cls` or `key.json` are one sample; read at random by offset.

Layouts: `root/train/*.tar` or `root/[name-]train-000000.tar`, and so for `val` or `validation`. A label is a number in `key.cls`
or in `key.json` under `label` or `cls`; there it may be a class name too. Where a sample has neither, its folder is its class.
DALI's index files (`wds2idx`) are used where they lie beside the shards and fit them.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from inceptionctl.data.imageset import ImageSet, Names, Pieces, PlacedNames, Split, is_image_name, picture_suffix
from inceptionctl.data.sources import index_cache
from inceptionctl.data.sources.class_lists import ClassList, read_class_names
from inceptionctl.data.sources.tars import TarMember, is_header, members, opened, size_in
from inceptionctl.errors import DataError

NAMES_OF = {"train": ("train",), "val": ("val", "validation")}
CLASSES_FILE = "classes.txt"
_SHARDS_AT_ONCE = 8  # reading an index waits for the disk more than it computes

Label = int | str


class ShardSample(NamedTuple):
    """One image of a shard with its label."""

    name: bytes
    offset: int
    size: int
    label: Label


def find_shards(root: Path, split: Split, suffix: str = "tar") -> list[Path]:
    """The shards of a split in the order of their names; none when there are none."""
    alone = re.compile(rf"(?:.*[-_.])?(?:{'|'.join(NAMES_OF[split])})[-_]?\d+\.{suffix}")
    found = [file for name in NAMES_OF[split] if (root / name).is_dir() for file in (root / name).iterdir()]
    inside = [file for file in found if file.name.endswith(f".{suffix}") and not file.name.startswith(".")]
    beside = (file for file in root.iterdir() if not file.name.startswith("."))
    return sorted(inside or (file for file in beside if alone.fullmatch(file.name)))


def open_shards(root: Path, split: Split, files: Sequence[Path], class_list: ClassList) -> ImageSet:
    """Index the shards of a split, or take the index that was kept. Raises DataError on a damaged shard or a label without class."""
    beside = [file.with_suffix(".idx") for file in files]
    named = class_list.file or next((file for file in [root / CLASSES_FILE] if file.is_file()), None)
    sources = [*files, *(file for file in beside if file.is_file()), *([named] if named else [])]
    times = index_cache.times_of(sources)
    made_of = index_cache.fingerprint("webdataset", class_list.order, times)
    if class_list.names is None and named:
        # Written with the shards, or by their maker: what the numbers mean, in whatever order.
        class_list = ClassList(read_class_names(named), named, "listed")
    return index_cache.kept(root, split, made_of, lambda: _index(root, split, files, class_list))


def _index(root: Path, split: Split, files: Sequence[Path], class_list: ClassList) -> ImageSet:
    with ThreadPoolExecutor(_SHARDS_AT_ONCE) as pool:
        shards = list(pool.map(_ShardIndex, files))
    labels = [label for shard in shards for label in shard.labels]
    if not labels:
        raise DataError(
            f"the shards of {files[0].parent} hold no images", "a sample is an image and a .cls or .json of the same name"
        )
    numbers, classes = numbered(labels, class_list, str(files[0].parent))
    names, passed_over = Names.joined(shard.names for shard in shards), sum((shard.passed for shard in shards), Counter[str]())
    pieces = Pieces.of(root, files, shards)
    return ImageSet(root, split, files[0].parent, classes, numbers, names, False, pieces, passed_over=passed_over)


def numbered(labels: Sequence[Label], class_list: ClassList, where: str) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Labels as numbers with the names of the classes. Numbers without names are their own names."""
    kinds = {type(label) for label in labels}
    if len(kinds) > 1:
        raise DataError(f"some labels of {where} are numbers and some are names", "use one of them in all shards")
    if kinds == {str}:
        classes = class_list.settle({str(label) for label in labels}, where, all_of_them=False)
        places = {name: number for number, name in enumerate(classes)}
        return np.fromiter((places[str(label)] for label in labels), np.int32, len(labels)), classes
    numbers = np.fromiter(labels, np.int64, len(labels))
    low, high = int(numbers.min()), int(numbers.max())
    if low < 0 or high >= 2**31 or (class_list.names is not None and high >= len(class_list.names)):
        known = f"{class_list.file} names {len(class_list.names)}" if class_list.names else "labels count from 0"
        raise DataError(f"{where} has labels from {low} to {high}, but {known}", "name all classes in data.class_names")
    classes = class_list.settle(class_list.names or (), where, all_of_them=False) or tuple(map(str, range(high + 1)))
    return numbers.astype(np.int32), classes


class _ShardIndex(PlacedNames):
    """The samples of one shard as arrays, with their labels."""

    def __init__(self, file: Path) -> None:
        with opened(file) as descriptor:
            listed = _listed_by_dali(descriptor, file) or list(members(descriptor, str(file)))
            samples = list(_samples(descriptor, file, listed))
        super().__init__(samples)
        self.passed = Counter(filter(None, (picture_suffix(member.name) for member in listed)))
        once: dict[Label, Label] = {}  # one object a class, not one a sample
        self.labels = [once.setdefault(sample.label, sample.label) for sample in samples]


def _samples(descriptor: int, file: Path, listed: Sequence[TarMember]) -> Iterator[ShardSample]:
    key, group = b"", dict[bytes, TarMember]()
    for member in listed:
        folder, slash, base = member.name.rpartition(b"/")
        if base.startswith(b"."):
            continue  # a Mac's tar puts ._name beside each file
        stem, _, extension = base.partition(b".")
        if folder + slash + stem != key:
            yield from _sample(descriptor, file, group)
            key, group = folder + slash + stem, {}
        group[extension.lower()] = member
    yield from _sample(descriptor, file, group)


def _sample(descriptor: int, file: Path, group: dict[bytes, TarMember]) -> Iterator[ShardSample]:
    """One sample, or none where the members of a key hold no image."""
    images = [member for extension, member in group.items() if is_image_name(b"." + extension)]
    if not images:
        return
    image = images[0]
    if len(images) > 1:
        names = b" and ".join(member.name for member in images).decode(errors="backslashreplace")
        raise DataError(f"{file}: two images in one sample: {names}", "give each image a key of its own")
    yield ShardSample(*image, _label(descriptor, file, image, group))


def _label(descriptor: int, file: Path, image: TarMember, group: dict[bytes, TarMember]) -> Label:
    where = f"{file}!{image.name.decode(errors='backslashreplace')}"
    if b"cls" in group:
        text = os.pread(descriptor, group[b"cls"].size, group[b"cls"].offset).strip()
        if not text.isdigit():
            raise DataError(f"{where}: the label {text[:40]!r} in its .cls is no whole number", "write numbers from 0 on")
        return int(text)
    if b"json" in group:
        try:
            told = json.loads(os.pread(descriptor, group[b"json"].size, group[b"json"].offset))
            label = told.get("label", told.get("cls"))
        except (ValueError, AttributeError):
            label = None
        if isinstance(label, bool) or not isinstance(label, int | str):
            raise DataError(f"{where}: its .json tells no label", 'write {"label": 7} or {"label": "name of the class"}')
        return label
    folder = image.name.rpartition(b"/")[0].rpartition(b"/")[2]
    if not folder:
        raise DataError(f"{where} has no label: neither .cls nor .json, and it lies in no folder", "add KEY.cls with a number")
    return os.fsdecode(folder)


def _listed_by_dali(descriptor: int, file: Path) -> list[TarMember] | None:
    """Members from the index file that DALI's wds2idx writes (`v1.2 SAMPLES`, then `ext offset size name ...` a sample).

    None where there is none, it is older than the shard, of another form, or does not fit: then the shard is read itself.
    """
    index = file.with_suffix(".idx")
    try:
        if index.stat().st_mtime_ns < file.stat().st_mtime_ns:
            return None
        first, *lines = index.read_bytes().splitlines()
        version, count = first.split()
        words = [line.split(b" ") for line in lines]
        if version != b"v1.2" or int(count) != len(lines) or any(len(line) % 4 for line in words):
            return None
        found = [TarMember(line[i + 3], int(line[i + 1]), int(line[i + 2])) for line in words for i in range(0, len(line), 4)]
    except (OSError, ValueError):
        return None
    ends = (found[0], found[-1]) if found else ()
    return found if found and all(_lies_there(descriptor, member) for member in ends) else None


def _lies_there(descriptor: int, member: TarMember) -> bool:
    header = os.pread(descriptor, 512, member.offset - 512) if member.offset >= 512 else b""
    whole = member.offset + member.size <= os.fstat(descriptor).st_size
    return whole and len(header) == 512 and is_header(header) and size_in(header) == member.size
