"""Images as files: split/<class>/*, or a validation folder without classes and a file with its labels. Reads names only."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inceptionctl.data import index_cache
from inceptionctl.data.class_lists import ClassList, find_label_file, read_labels, some
from inceptionctl.data.imageset import SUFFIXES, ImageSet, Names, Split, is_image_name
from inceptionctl.errors import DataError
from inceptionctl.words import counted


def open_folder(root: Path, split: Split, folder: Path, class_list: ClassList, val_labels: Path | None) -> ImageSet:
    """List one split, sorted by class and then by name. Hidden files and other suffixes than SUFFIXES are skipped, links followed.

    A link that leads nowhere is listed all the same: it is meant to be an image, and `check` names it.
    Raises DataError when there are no classes, or a class has no images.
    """
    found = _entries(folder, folders=True)
    if split == "val" and (val_labels or not found):
        labels = val_labels or find_label_file(root)
        if labels is not None:
            return _flat(root, folder, labels, class_list)
    if not found:
        also = f", or a file with the labels of its images into {root} (see docs/data.md)" if split == "val" else ""
        raise DataError(f"{folder} has no class folders", f"put the images of a class into {folder}/<class>/{also}")
    classes = class_list.settle(found, str(folder), all_of_them=True)
    return index_cache.kept(root, split, *made_of(folder, found, classes), lambda: _listed(root, split, folder, classes))


def made_of(folder: Path, found: Sequence[str], classes: Sequence[str]) -> tuple[str, float]:
    """The fingerprint of a folder with these class folders, and when one of them last changed, in seconds since 1970."""
    times = index_cache.times_of([folder, *(folder / name for name in sorted(found))])
    newest = max(changed for *_, changed in times) / 1e9
    return index_cache.fingerprint("folder", folder.name, classes, times), newest


def _listed(root: Path, split: Split, folder: Path, classes: tuple[str, ...]) -> ImageSet:
    names = [_image_names(folder / name) for name in classes]
    counts = [len(part) for part in names]
    _refuse_empty(folder, classes, counts)
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), counts)
    return ImageSet(root, split, folder, classes, labels, Names.joined(names))


def _flat(root: Path, folder: Path, file: Path, class_list: ClassList) -> ImageSet:
    """A validation folder without classes: the i-th line of the label file is of the i-th image in the order of names."""
    names, labels = _image_names(folder), read_labels(file)
    check_same_number(len(names), str(folder), labels, file)
    classes = classes_of_labels(root, labels, file, class_list)
    return ImageSet(root, "val", folder, classes, label_numbers(labels, classes, str(file)), names, class_folders=False)


def classes_of_labels(root: Path, labels: Sequence[str], file: Path, class_list: ClassList) -> tuple[str, ...]:
    """The classes of a split without class folders: those listed, else the training folder's, else those that have labels."""
    train = root / "train"
    known = _entries(train, folders=True) if class_list.names is None and train.is_dir() else None
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


def _image_names(folder: Path) -> Names:
    files = sorted(map(os.fsencode, _entries(folder, folders=False)))
    return Names.of(filter(is_image_name, files))


def _entries(folder: Path, *, folders: bool) -> list[str]:
    try:
        with os.scandir(folder) as found:
            return [entry.name for entry in found if not entry.name.startswith(".") and entry.is_dir() == folders]
    except OSError as fault:
        raise DataError(f"cannot list {folder}: {fault.strerror}") from fault


def _refuse_empty(folder: Path, classes: Sequence[str], counts: Sequence[int]) -> None:
    empty = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    if not empty:
        return
    subject = f"class '{empty[0]}' has" if len(empty) == 1 else f"{len(empty)} classes have"
    named = "" if len(empty) == 1 else f": {some(empty)}"
    raise DataError(
        f"{subject} no images in {folder}{named}",
        f"images end in {', '.join(SUFFIXES)}; remove the folder if the class is not meant to exist",
    )
