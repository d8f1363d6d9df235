"""What is in a data set: root/train/<class>/* and root/val/<class>/*, listed compactly and always in the same order.

Reads names only, never an image; needs numpy and the standard library.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from inceptionctl.errors import DataError

Split = Literal["train", "val"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_SUFFIXES = tuple(os.fsencode(suffix) for suffix in SUFFIXES)
_FOLDERS: dict[Split, tuple[str, ...]] = {"train": ("train",), "val": ("val", "validation")}


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """The images of one split, sorted by class and then by file name.

    Names lie in one block of bytes with offsets, not in a list: ImageNet's 1.28 million take 35 MB instead of 100 and more, and
    forked or spawned ranks do not touch a million reference counts.
    """

    root: Path
    """The data set: the folder that holds `train` and `val`."""
    split: Split
    folder: Path
    """The folder of the split itself (`val` may be called `validation`)."""
    classes: tuple[str, ...]
    """Names of the class folders, sorted; the position is the label."""
    labels: NDArray[np.int32]
    """int32 [N]."""
    _names: bytes
    _offsets: NDArray[np.int64]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def path(self, i: int) -> bytes:
        """The i-th file as the file system spells it (names need not be UTF-8)."""
        name = self._names[self._offsets[i] : self._offsets[i + 1]]
        return b"/".join((os.fsencode(self.folder), os.fsencode(self.classes[self.labels[i]]), name))

    def class_counts(self) -> NDArray[np.int64]:
        """Images of each class, int64 [number of classes]."""
        return np.bincount(self.labels, minlength=len(self.classes)).astype(np.int64)


def open_split(root: Path, split: Split) -> ImageFolder:
    """List one split of a data set. Hidden files and other suffixes than SUFFIXES are skipped, links are followed.

    A link that leads nowhere is listed all the same: it is meant to be an image, and `check` names it.
    Raises DataError when the folder is missing, has no classes, or has a class without images.
    """
    folder = _split_folder(root, split)
    classes = sorted(_entries(folder, folders=True))
    if not classes:
        raise DataError(f"{folder} has no class folders", f"put the images of a class into {folder}/<class>/")
    names: list[bytes] = []
    counts: list[int] = []
    for name in classes:
        files = sorted(os.fsencode(file) for file in _entries(folder / name, folders=False))
        images = [file for file in files if file.lower().endswith(_SUFFIXES)]
        names.extend(images)
        counts.append(len(images))
    _refuse_empty(folder, classes, counts)
    lengths = np.fromiter(map(len, names), dtype=np.int64, count=len(names))
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), counts)
    return ImageFolder(root, split, folder, tuple(classes), labels, b"".join(names), offsets)


def _split_folder(root: Path, split: Split) -> Path:
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise DataError(
            f"the data set {root} {what}", "set it with `--set data.root=FOLDER`; it holds train/<class>/ and val/<class>/"
        )
    found = [root / name for name in _FOLDERS[split] if (root / name).is_dir()]
    if len(found) > 1:
        raise DataError(
            f"{root} has both {found[0].name}/ and {found[1].name}/", "keep one of them: they are two names of one split"
        )
    if not found:
        there = sorted(entry.name for entry in root.iterdir())
        listed = ", ".join(there[:10]) + (f" and {len(there) - 10} more" if len(there) > 10 else "") if there else "nothing"
        raise DataError(f"{root} has no {split} folder; there is: {listed}", f"put the images into {root / split}/<class>/")
    return found[0]


def _entries(folder: Path, *, folders: bool) -> Iterator[str]:
    try:
        with os.scandir(folder) as found:
            for entry in found:
                if not entry.name.startswith(".") and entry.is_dir() == folders:
                    yield entry.name
    except OSError as fault:
        raise DataError(f"cannot list {folder}: {fault.strerror}") from fault


def _refuse_empty(folder: Path, classes: Sequence[str], counts: Sequence[int]) -> None:
    empty = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    if not empty:
        return
    subject = f"class '{empty[0]}' has" if len(empty) == 1 else f"{len(empty)} classes have"
    named = "" if len(empty) == 1 else f": {_some(empty)}"
    raise DataError(
        f"{subject} no images in {folder}{named}",
        f"images end in {', '.join(SUFFIXES)}; remove the folder if the class is not meant to exist",
    )


def check_num_classes(split: ImageFolder, num_classes: int) -> None:
    """Raise DataError unless the data set has as many classes as the network has outputs."""
    found = len(split.classes)
    if found != num_classes:
        raise DataError(
            f"{split.folder} has {found} classes, model.num_classes is {num_classes}", f"`--set model.num_classes={found}`"
        )


def same_classes(train: ImageFolder, val: ImageFolder) -> None:
    """Raise DataError unless both splits have the same class folders: labels are positions in their sorted names."""
    parts = []
    for one, other in ((train, val), (val, train)):
        only = sorted(set(one.classes) - set(other.classes))
        if only:
            parts.append(f"only in {one.folder.name}/: {_some(only)}")
    if parts:
        raise DataError(
            f"the class folders of {train.folder} and {val.folder} differ; {'; '.join(parts)}",
            "both splits need the same class folders: a label is the position of its folder's name",
        )


def _some(names: Sequence[str], most: int = 10) -> str:
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def open_data(root: Path, num_classes: int) -> tuple[ImageFolder, ImageFolder]:
    """Training and validation images with the same classes, as many as the network has. Raises DataError otherwise."""
    train, val = open_split(root, "train"), open_split(root, "val")
    same_classes(train, val)
    check_num_classes(train, num_classes)
    return train, val
