"""What is in a data set, whatever it is made of: folders, shards, TFRecords, lists, or ImageNet's tars; always in the same order.

Reads names and headers only, never an image; needs numpy and the standard library.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Unpack

from inceptionctl.data.imageset import SUFFIXES, ImageSet, Span, Split
from inceptionctl.data.sources import Format, Sources
from inceptionctl.data.sources.class_lists import ClassList, check_names, some
from inceptionctl.data.sources.csv_lists import open_csv, read_column
from inceptionctl.data.sources.division import divided
from inceptionctl.data.sources.exclusions import check_used, leave_out, read_exclusions
from inceptionctl.data.sources.folders import open_folder
from inceptionctl.data.sources.shards import NAMES_OF, find_shards, open_shards
from inceptionctl.data.sources.tars import TARS, open_tar
from inceptionctl.data.sources.tfrecords import find_records, open_records
from inceptionctl.errors import DataError
from inceptionctl.nearby import did_you_mean
from inceptionctl.words import counted

__all__ = ["SUFFIXES", "ImageSet", "Span", "Split", "check_num_classes", "open_data", "open_split", "same_classes"]

UNFINISHED = "manifest.partial.json"  # packing has begun here and not ended


def open_split(root: Path, split: Split, **sources: Unpack[Sources]) -> ImageSet:
    """List one split of a data set.

    Raises DataError when the split is missing, damaged, has no classes, contradicts a list, or has a class whose name is no line of text.
    """
    images = _opened(root, split, sources)
    check_names(images.classes, images.folder, class_folders=images.class_folders)
    exclusions = sources.get("exclusions")
    return leave_out(images, read_exclusions(exclusions, root)) if exclusions else images


def _opened(root: Path, split: Split, sources: Sources) -> ImageSet:
    class_list = ClassList.read(sources.get("class_names"), sources.get("class_order", "sorted"))
    format, val_labels, train_csv = sources.get("format", "auto"), sources.get("val_labels"), sources.get("train_csv")
    fraction = sources.get("val_fraction")
    if fraction is not None:
        whole, column = _undivided(root, sources), sources.get("group_by_column")
        groups = read_column(train_csv, column) if column and train_csv else None
        return divided(whole, split, fraction, sources.get("group_by"), groups)
    file = train_csv if split == "train" else sources.get("val_csv")
    if format == "csv" or (format == "auto" and file):
        if file is None:
            raise DataError(f"data.format is csv, but data.{split}_csv names no list", f"`--set data.{split}_csv=FILE`")
        return open_csv(root, split, file, train_csv, class_list)
    _refuse_missing(root)
    openers: dict[Format, Callable[[], ImageSet | None]] = {
        "tfrecord": lambda: open_records(root, split, found, class_list) if (found := find_records(root, split)) else None,
        "webdataset": lambda: open_shards(root, split, found, class_list) if (found := find_shards(root, split)) else None,
        "imagenet": lambda: open_tar(root, split, class_list, val_labels) if (root / TARS[split]).is_file() else None,
        "folder": lambda: open_folder(root, split, _split_folder(root, split), class_list, val_labels),
    }
    for name, opener in openers.items():
        images = opener() if format in ("auto", name) else None
        if images is not None:
            return images
    raise DataError(f"{root} has no {split} data of the format `{format}`; there is: {_contents(root)}", _SHAPES[format])


def _undivided(root: Path, sources: Sources) -> ImageSet:
    """All images of a data set without a validation split: those of its training split, or of the class folders in its root."""
    if not sources.get("train_csv"):
        _refuse_missing(root)
    found = [name for name in (*NAMES_OF["val"], TARS["val"]) if (root / name).exists()]
    found += [file.name for file in (find_shards(root, "val") or find_records(root, "val") or [])[:1]]
    found += [str(sources.get("val_csv"))] if sources.get("val_csv") else []
    if found:
        raise DataError(
            f"data.val_fraction is set, and {root} has validation images: {found[0]}",
            "leave data.val_fraction out, or take them away",
        )
    whole: Sources = {**sources, "val_fraction": None}
    has_train = sources.get("train_csv") or sources.get("format", "auto") != "auto" or _has_train(root)
    if has_train:
        return _opened(root, "train", whole)
    class_list = ClassList.read(sources.get("class_names"), sources.get("class_order", "sorted"))
    return open_folder(root, "train", root, class_list, None)


def _has_train(root: Path) -> bool:
    named = any((root / name).exists() for name in (*NAMES_OF["train"], TARS["train"]))
    return named or bool(find_shards(root, "train") or find_records(root, "train"))


_SHAPES: dict[Format, str] = {
    "webdataset": "shards are train/*.tar or train-000000.tar, and so for val; `--set data.format=auto` looks for any format",
    "tfrecord": "files are named train-00000-of-01024 and validation-00000-of-00128; `--set data.format=auto` looks for any format",
    "imagenet": f"the files are {TARS['train']} and {TARS['val']}; `--set data.format=auto` looks for any format",
}


def _refuse_missing(root: Path) -> None:
    if not root.is_dir():
        what = (
            "is not a folder"
            if root.exists()
            else "does not exist"
            if root.is_absolute()
            else f"does not exist in {Path.cwd()}"
        )
        raise DataError(
            f"the data set {root} {what}",
            f"{did_you_mean(root)}set it with `--set data.root=FOLDER`; it holds train/<class>/ and val/<class>/",
        )
    if (root / UNFINISHED).exists():
        raise DataError(
            f"{root} is not packed to its end", "run the same `inceptionctl data pack` again: it resumes where it stopped"
        )


def _split_folder(root: Path, split: Split) -> Path:
    found = [root / name for name in NAMES_OF[split] if (root / name).is_dir()]
    if len(found) > 1:
        raise DataError(
            f"{root} has both {found[0].name}/ and {found[1].name}/", "keep one of them: they are two names of one split"
        )
    if not found:
        divide = "; `--set data.val_fraction=0.2` takes a fifth of each class for validation"
        raise DataError(
            f"{root} has no {split} folder; there is: {_contents(root)}",
            f"put the images into {root / split}/<class>/{divide if split == 'val' or not _has_train(root) else ''}",
        )
    return found[0]


def _contents(root: Path) -> str:
    return some(sorted(entry.name for entry in root.iterdir() if not entry.name.startswith("."))) or "nothing"


def check_num_classes(split: ImageSet, num_classes: int | None = None) -> None:
    """Raise DataError unless the data set has two classes at least, and as many as the network has outputs."""
    found = len(split.classes)
    if found == 1:
        raise DataError(
            f"{split.folder} has one class, '{split.classes[0]}': there is nothing to tell apart",
            "add images of what is not of it, as a class of their own",
        )
    if num_classes is not None and found != num_classes:
        raise DataError(
            f"{split.folder} has {counted(found, 'class', 'classes')}, model.num_classes is {num_classes}",
            f"`--set model.num_classes={found}`",
        )


def same_classes(train: ImageSet, val: ImageSet) -> None:
    """Raise DataError unless both splits have the same classes with the same labels."""
    parts = []
    for one, other in ((train, val), (val, train)):
        only = sorted(set(one.classes) - set(other.classes))
        if only:
            parts.append(f"only in {one.folder.name}/: {some(only)}")
    if parts:
        what = "class folders" if train.class_folders and val.class_folders else "classes"
        raise DataError(
            f"the {what} of {train.folder} and {val.folder} differ; {'; '.join(parts)}",
            f"both splits need the same {what}: move images of a class that one lacks there, or take the class out of both",
        )
    if train.classes != val.classes:
        label = next(i for i, names in enumerate(zip(train.classes, val.classes, strict=True)) if len(set(names)) > 1)
        raise DataError(
            f"label {label} is '{train.classes[label]}' in {train.folder} and '{val.classes[label]}' in {val.folder}",
            "give both splits one list of names with data.class_names",
        )


def open_data(root: Path, num_classes: int | None, **sources: Unpack[Sources]) -> tuple[ImageSet, ImageSet]:
    """Training and validation images with the same classes, as many as the network has (None: any number). Raises DataError otherwise.

    Also when most names in `exclusions` are those of no images.
    """
    train, val = open_split(root, "train", **sources), open_split(root, "val", **sources)
    check_num_classes(train)
    same_classes(train, val)
    check_num_classes(train, num_classes)
    if exclusions := sources.get("exclusions"):
        check_used(read_exclusions(exclusions, root), train, val)
    return train, val
