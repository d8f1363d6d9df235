"""Images as files: split/<class>/*, or a validation folder without classes and a file with its labels. Reads names only."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inceptionctl.data.imageset import BESIDE, NESTED, SUFFIXES, ImageSet, Names, Split, is_image_name, picture_suffix
from inceptionctl.data.sources import index_cache
from inceptionctl.data.sources.class_lists import ClassList, find_label_file, read_labels, some
from inceptionctl.errors import DataError
from inceptionctl.words import counted


def open_folder(root: Path, split: Split, folder: Path, class_list: ClassList, val_labels: Path | None) -> ImageSet:
    """List one split, sorted by class and then by name. Links are followed; hidden files and other suffixes than SUFFIXES are skipped.

    A link that leads nowhere is listed all the same: it is meant to be an image, and `check` names it.
    Raises DataError when there are no classes, or a class has no images.
    """
    found, beside = _entries(folder)
    if split == "val" and (val_labels or not found):
        labels = val_labels or find_label_file(root)
        if labels is not None:
            return _flat(root, folder, labels, class_list)
    if not found:
        also = f", or a file with the labels of its images into {root} (see docs/data.md)" if split == "val" else ""
        raise DataError(f"{folder} has no class folders", f"put the images of a class into {folder}/<class>/{also}")
    classes = class_list.settle(found, str(folder), all_of_them=True)
    fingerprint, newest = made_of(folder, found, classes)
    return index_cache.kept(root, split, fingerprint, lambda: _listed(root, split, folder, classes, beside), newest=newest)


def made_of(folder: Path, found: Sequence[str], classes: Sequence[str]) -> tuple[str, float]:
    """The fingerprint of a folder with these class folders, and when one of them last changed, in seconds since 1970."""
    times = index_cache.times_of([folder, *(folder / name for name in sorted(found))])
    newest = max(changed for *_, changed in times) / 1e9
    return index_cache.fingerprint("folder", folder.name, classes, times), newest


def _listed(root: Path, split: Split, folder: Path, classes: tuple[str, ...], beside: Sequence[str]) -> ImageSet:
    outside = sum(is_image_name(name) or picture_suffix(name) is not None for name in map(os.fsencode, beside))
    passed = Counter({BESIDE: outside} if outside else {})
    found = [_image_names(folder / name) for name in classes]
    counts = [len(names) for names, _ in found]
    _refuse_empty(folder, split, classes, [part for _, part in found], counts)
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), counts)
    names = Names.joined(names for names, _ in found)
    return ImageSet(root, split, folder, classes, labels, names, passed_over=sum((part for _, part in found), passed))


def _flat(root: Path, folder: Path, file: Path, class_list: ClassList) -> ImageSet:
    """A validation folder without classes: the i-th line of the label file is of the i-th image in the order of names."""
    (names, passed), labels = _image_names(folder), read_labels(file)
    check_same_number(len(names), str(folder), labels, file)
    classes = classes_of_labels(root, labels, file, class_list)
    numbers = label_numbers(labels, classes, str(file))
    return ImageSet(root, "val", folder, classes, numbers, names, class_folders=False, passed_over=passed)


def classes_of_labels(root: Path, labels: Sequence[str], file: Path, class_list: ClassList) -> tuple[str, ...]:
    """The classes of a split without class folders: those listed, else the training folder's, else those that have labels."""
    train = root / "train"
    known = _entries(train)[0] if class_list.names is None and train.is_dir() else None
    return class_list.settle(known or set(labels), str(train if known else file), all_of_them=False)


def check_same_number(images: int, where: str, labels: Sequence[str], file: Path) -> None:
    """Raise DataError unless there are as many labels as images."""
    if images != len(labels):
        raise DataError(
            f"{where} holds {counted(images, 'image')}, {file} has labels of {len(labels)}",
            "the i-th line is the label of the i-th image in the order of names: both must be whole",
        )


def label_numbers(labels: Sequence[str], classes: Sequence[str], where: str) -> NDArray[np.int32]:
    """Class names as places in `classes`, int32 [N]. Raises DataError on a name that is none of them."""
    numbers = {name: number for number, name in enumerate(classes)}
    unknown = sorted(set(labels) - set(classes))
    if unknown:
        line = labels.index(unknown[0]) + 1
        raise DataError(
            f"{where} names {counted(len(unknown), 'class', 'classes')} that the data set does not have: {some(unknown)}"
            f" ('{unknown[0]}' in line {line})",
            "the names must be those of the training classes",
        )
    return np.fromiter(map(numbers.__getitem__, labels), dtype=np.int32, count=len(labels))


def _image_names(folder: Path) -> tuple[Names, Counter[str]]:
    """The images that lie in a folder, sorted, and what is passed over there."""
    folders, files = _entries(folder)
    names = sorted(map(os.fsencode, files))
    passed = Counter(filter(None, map(picture_suffix, names)))
    if folders:
        passed[NESTED] = len(folders)
    return Names.of(filter(is_image_name, names)), passed


def _entries(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the folders in a folder, and of the files; none that is hidden."""
    folders, files = list[str](), list[str]()
    try:
        with os.scandir(folder) as found:
            for entry in found:
                if not entry.name.startswith("."):
                    (folders if entry.is_dir() else files).append(entry.name)
    except OSError as fault:
        raise DataError(f"cannot list {folder}: {fault.strerror}", "check the folder and its permissions") from fault
    return folders, files


def _refuse_empty(
    folder: Path, split: Split, classes: Sequence[str], passed: Sequence[Counter[str]], counts: Sequence[int]
) -> None:
    empty = [i for i, count in enumerate(counts) if count == 0]
    if not empty:
        return
    names = [classes[i] for i in empty]
    subject = f"class '{names[0]}' has" if len(names) == 1 else f"{len(names)} classes have"
    named = "" if len(names) == 1 else f": {some(names)}"
    there = sum((passed[i] for i in empty), Counter[str]())
    instead = f" (passed over there: {in_words(there)})" if there else ""
    other = "val" if split == "train" else "train"
    put = "put images of it there" if split == "train" else "move some of its training images there"
    raise DataError(
        f"{subject} no images in {folder}{named}{instead}",
        f"images end in {', '.join(SUFFIXES)}; {put}, or remove its folder from {folder.name}/ and {other}/ both",
    )


def in_words(passed_over: Mapping[str, int]) -> str:
    """What is passed over, in words: `.heic 2, folders inside class folders 1`."""
    return ", ".join(f"{what} {count:,}" for what, count in sorted(passed_over.items()))


def passed_over_remark(splits: Iterable[ImageSet]) -> str | None:
    """One sentence on what the listing of splits has passed over, or None. Counts folders inside class folders, and looks into none."""
    parts = [f"{in_words(images.passed_over)} in {images.split}" for images in splits if images.passed_over]
    return f"passed over: {'; '.join(parts)}" if parts else None
