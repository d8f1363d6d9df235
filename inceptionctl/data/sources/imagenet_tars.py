"""ImageNet as it is downloaded: ILSVRC2012_img_train.tar (a tar of 1,000 tars) and ILSVRC2012_img_val.tar, read by offset.

Sorted by class and then by name, as the same files unpacked into folders are.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inceptionctl.data.imageset import ImageSet, Names, Pieces, Split, is_image_name, picture_suffix, smallest
from inceptionctl.data.sources import index_cache
from inceptionctl.data.sources.class_lists import LABEL_FILES, ClassList, find_label_file, read_labels
from inceptionctl.data.sources.folders import check_same_number, classes_of_labels, label_numbers
from inceptionctl.data.sources.shards import opened
from inceptionctl.data.sources.tars import Member, members
from inceptionctl.errors import DataError

TARS: dict[Split, str] = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}


def open_tar(root: Path, split: Split, class_list: ClassList, val_labels: Path | None) -> ImageSet:
    """Index one of the two files, or take the index that was kept. Raises DataError when it is damaged or has no labels."""
    labels = val_labels or find_label_file(root)
    if split == "val" and labels is None:
        raise DataError(
            f"{root / TARS['val']} holds no labels, and no file with them lies beside it",
            f"put one there ({', '.join(LABEL_FILES[:2])}, or the development kit {LABEL_FILES[-1]}), or set data.val_labels",
        )
    used = [
        root / TARS[split],
        *([labels] if split == "val" and labels else []),
        *([class_list.file] if class_list.file else []),
    ]
    made_of = index_cache.fingerprint("imagenet", class_list.order, index_cache.times_of(used))
    if split == "train":
        return index_cache.kept(root, split, made_of, 0.0, lambda: _train(root, class_list))
    assert labels is not None
    return index_cache.kept(root, split, made_of, 0.0, lambda: _val(root, labels, class_list))


def _train(root: Path, class_list: ClassList) -> ImageSet:
    file = root / TARS["train"]
    found: dict[str, list[Member]] = {}
    passed = Counter[str]()
    with opened(file) as descriptor:
        for inner in members(descriptor, str(file)):
            name = Path(os.fsdecode(inner.name))
            if name.suffix == ".tar" and not name.name.startswith("."):
                where = f"{file}!{name}"
                listed = list(members(descriptor, where, inner.offset, inner.offset + inner.size))
                found[name.stem] = sorted(filter(_is_image, listed))
                passed.update(_passed_over(listed))
    if not found:
        raise DataError(f"{file} holds no tars of classes", "it is the tar of the training images as it is downloaded")
    classes = class_list.settle(found, str(file), all_of_them=True)
    counts = [len(found[name]) for name in classes]
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), counts)
    return _image_set(root, "train", classes, labels, [member for name in classes for member in found[name]], passed)


def _val(root: Path, label_file: Path, class_list: ClassList) -> ImageSet:
    file = root / TARS["val"]
    with opened(file) as descriptor:
        listed = list(members(descriptor, str(file)))
    found = sorted(filter(_is_image, listed))
    labels = read_labels(label_file)
    check_same_number(len(found), str(file), labels, label_file)
    classes = classes_of_labels(root, labels, label_file, class_list)
    return _image_set(root, "val", classes, label_numbers(labels, classes, str(label_file)), found, _passed_over(listed))


def _is_image(member: Member) -> bool:
    return is_image_name(member.name) and not member.name.rpartition(b"/")[2].startswith(b".")


def _passed_over(listed: list[Member]) -> Counter[str]:
    return Counter(filter(None, (picture_suffix(member.name) for member in listed)))


def _image_set(
    root: Path,
    split: Split,
    classes: tuple[str, ...],
    labels: NDArray[np.int32],
    found: list[Member],
    passed_over: Counter[str],
) -> ImageSet:
    pieces = Pieces(
        (TARS[split],),
        np.zeros(1, dtype=np.int64),
        smallest(np.fromiter((member.offset for member in found), np.int64, len(found))),
        smallest(np.fromiter((member.size for member in found), np.int64, len(found))),
    )
    names = Names.of(member.name for member in found)
    folder = root / TARS[split]
    return ImageSet(root, split, folder, classes, labels, names, class_folders=False, pieces=pieces, passed_over=passed_over)
