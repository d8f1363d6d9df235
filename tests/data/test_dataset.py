"""Listing a data set: what counts as an image, in which order, and what is said when it does not fit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from inceptionctl.data.dataset import check_num_classes, open_data, open_split, same_classes
from inceptionctl.errors import DataError


def lay_out(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not read here")
    return root


def names(root: Path, split: str = "train") -> list[str]:
    images = open_split(root, split)  # type: ignore[arg-type]
    return [os.fsdecode(os.path.relpath(images.path(i), os.fsencode(images.folder))) for i in range(len(images))]


def test_images_are_sorted_by_class_and_then_by_name(tmp_path: Path) -> None:
    lay_out(tmp_path, "train/b/2.jpg", "train/b/10.jpg", "train/a/z.png", "train/B/1.JPG", "train/a/y.webp")
    images = open_split(tmp_path, "train")
    assert names(tmp_path) == ["B/1.JPG", "a/y.webp", "a/z.png", "b/10.jpg", "b/2.jpg"]
    assert images.classes == ("B", "a", "b")
    assert images.labels.tolist() == [0, 1, 1, 2, 2]
    assert images.class_counts().tolist() == [1, 2, 2]
    assert len(images) == 5


def test_only_images_count(tmp_path: Path) -> None:
    kept = [f"train/a/{i}.{suffix}" for i, suffix in enumerate(("jpg", "JPEG", "Png", "bmp", "webp", "tif", "TIFF"))]
    lay_out(
        tmp_path, *kept, "train/a/.hidden.jpg", "train/a/Thumbs.db", "train/a/notes.txt", "train/.cache/x.jpg", "train/x.jpg"
    )
    (tmp_path / "train/a/folder.jpg").mkdir()
    assert names(tmp_path) == sorted(name.removeprefix("train/") for name in kept)


def test_links_are_followed_and_dangling_ones_listed(tmp_path: Path) -> None:
    lay_out(tmp_path, "elsewhere/deep/1.jpg", "train/a/0.jpg")
    (tmp_path / "train/b").symlink_to(tmp_path / "elsewhere/deep")
    (tmp_path / "train/a/1.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert names(tmp_path) == ["a/0.jpg", "a/1.jpg", "b/1.jpg"]


def test_names_need_not_be_utf8(tmp_path: Path) -> None:
    lay_out(tmp_path, "train/hoppér/photo (1).jpg")
    Path(os.fsdecode(bytes(tmp_path / "train/hoppér") + b"/\xff\xfe.jpg")).write_bytes(b"x")
    images = open_split(tmp_path, "train")
    assert images.path(1) == bytes(tmp_path) + "/train/hoppér".encode() + b"/\xff\xfe.jpg"
    assert all(Path(os.fsdecode(images.path(i))).exists() for i in range(2))


def test_validation_is_another_name_of_val(tmp_path: Path) -> None:
    lay_out(tmp_path, "validation/a/1.jpg")
    images = open_split(tmp_path, "val")
    assert images.folder == tmp_path / "validation"
    assert images.split == "val"
    lay_out(tmp_path, "val/a/1.jpg")
    with pytest.raises(DataError, match=r"has both val/ and validation/"):
        open_split(tmp_path, "val")


def test_a_missing_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the data set .*/nope does not exist") as raised:
        open_split(tmp_path / "nope", "train")
    assert "--set data.root=" in (raised.value.hint or "")
    file = lay_out(tmp_path, "file") / "file"
    with pytest.raises(DataError, match="is not a folder"):
        open_split(file, "train")


def test_a_missing_split_says_what_is_there(tmp_path: Path) -> None:
    lay_out(tmp_path, "Train/a/1.jpg", "labels.csv")
    with pytest.raises(DataError, match=r"has no train folder; there is: Train, labels\.csv") as raised:
        open_split(tmp_path, "train")
    assert "train/<class>/" in (raised.value.hint or "")


def test_a_split_without_classes_is_refused(tmp_path: Path) -> None:
    lay_out(tmp_path, "train/1.jpg")
    with pytest.raises(DataError, match="train has no class folders"):
        open_split(tmp_path, "train")


def test_a_class_without_images_is_named(tmp_path: Path) -> None:
    lay_out(tmp_path, "train/a/1.jpg", "train/cracked/notes.txt")
    with pytest.raises(DataError, match="class 'cracked' has no images"):
        open_split(tmp_path, "train")
    lay_out(tmp_path, "train/dull/notes.txt")
    with pytest.raises(DataError, match=r"2 classes have no images in .*: cracked, dull"):
        open_split(tmp_path, "train")


def test_both_numbers_of_classes_are_named(tmp_path: Path) -> None:
    images = open_split(lay_out(tmp_path, "train/a/1.jpg", "train/b/1.jpg"), "train")
    check_num_classes(images, 2)
    with pytest.raises(DataError, match=r"train has 2 classes, model\.num_classes is 1000") as raised:
        check_num_classes(images, 1000)
    assert "--set model.num_classes=2" in (raised.value.hint or "")


def test_classes_of_one_split_only_are_named(tmp_path: Path) -> None:
    lay_out(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "val/c/1.jpg")
    with pytest.raises(DataError, match=r"only in train/: b; only in val/: c"):
        same_classes(open_split(tmp_path, "train"), open_split(tmp_path, "val"))
    with pytest.raises(DataError, match="only in"):
        open_data(tmp_path, 2)


@pytest.mark.parametrize(
    "module", ["dataset", "sampler", "transforms", "audit.check", "elpv", "audit.probe", "shard_writer", "read_ahead"]
)
def test_listing_needs_neither_torch_nor_dali(module: str) -> None:
    program = f"import sys, inceptionctl.data.{module}; print([name for name in ('torch', 'nvidia.dali', 'rich') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
