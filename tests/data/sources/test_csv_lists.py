"""Lists of images in CSV files: what they name, and problems by line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from inceptionctl.data.dataset import open_data, open_split
from inceptionctl.errors import DataError
from tests.data.test_dataset import lay_out


def write(file: Path, *lines: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n")
    return file


def test_lists_name_images_anywhere(tmp_path: Path) -> None:
    lay_out(tmp_path, "store/x/1.jpg", "store/x/2.jpg", "store/y/3.png", "lists/near.jpg")
    train = write(
        tmp_path / "lists/train.csv",
        "label,path,note",
        f"dog,{tmp_path}/store/x/2.jpg,",
        "cat,near.jpg,a",
        'cat,"../store/x/1.jpg","a, b"',
    )
    val = write(tmp_path / "lists/val.csv", "path,label", "x/1.jpg,dog")
    images, validation = open_data(tmp_path / "store", 2, train_csv=train, val_csv=val)
    assert images.classes == validation.classes == ("cat", "dog")
    assert images.labels.tolist() == [1, 0, 0] and validation.labels.tolist() == [1]
    assert [Path(images.path(i).decode()).resolve() for i in range(3)] == [
        tmp_path / "store/x/2.jpg",
        tmp_path / "lists/near.jpg",
        tmp_path / "store/x/1.jpg",
    ]
    assert validation.read(0) == b"not read here"  # below the root, since it is not beside the list


def test_every_problem_is_named_with_its_line(tmp_path: Path) -> None:
    lay_out(tmp_path, "1.jpg")
    file = write(tmp_path / "train.csv", "path,label", "1.jpg,a", "1.jpg", ",b", "1.jpg,", "a,b,c")
    with pytest.raises(DataError) as raised:
        open_split(tmp_path, "train", train_csv=file)
    assert re.findall(r"line (\d): (.*)", raised.value.message) == [
        ("3", "1 columns instead of 2; quote a name that holds a comma"),
        ("4", "no path"),
        ("5", "no label for 1.jpg"),
        ("6", "3 columns instead of 2; quote a name that holds a comma"),
    ]
    write(file, "path,label", "1.jpg,a", "", "2.jpg,a", *["3.jpg,a"] * 12)
    with pytest.raises(DataError, match=rf"line 4: there is no file {tmp_path}/2\.jpg") as raised:
        open_split(tmp_path, "train", train_csv=file)
    assert "and 3 more" in raised.value.message


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("file,class", "1.jpg,a"), "line 1: the columns are file, class"),
        (("",), "line 1: the columns are missing"),
        (("path,label",), "names no images"),
        (("path,label", '"1.jpg,a'), r"line \d: unexpected end of data"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path: Path, lines: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_split(tmp_path, "train", train_csv=write(tmp_path / "x.csv", *lines))


def test_labels_that_training_does_not_know_are_named(tmp_path: Path) -> None:
    lay_out(tmp_path, "1.jpg")
    train, val = write(tmp_path / "t.csv", "path,label", "1.jpg,a"), write(tmp_path / "v.csv", "path,label", "1.jpg,b")
    with pytest.raises(DataError, match=r"v\.csv names 1 class that the data set does not have: b"):
        open_split(tmp_path, "val", train_csv=train, val_csv=val)


def test_a_missing_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no list .*gone\.csv"):
        open_split(tmp_path, "train", train_csv=tmp_path / "gone.csv")
    with pytest.raises(DataError, match=r"data\.format is csv, but data\.val_csv names no list"):
        open_split(tmp_path, "val", format="csv", train_csv=tmp_path / "gone.csv")
