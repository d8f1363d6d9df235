"""What a data set holds and training passes over is counted and said, and `data check` refuses what training refuses."""

from __future__ import annotations

import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from inceptionctl.cli import app
from inceptionctl.data.audit.check import BESIDE, IN_NESTED, OTHER, UNNAMED, open_what_is_there, passed_over
from inceptionctl.data.dataset import open_data, open_split
from inceptionctl.data.sources import index_cache
from inceptionctl.data.sources.folders import passed_over_remark
from inceptionctl.errors import DataError


@pytest.fixture
def mixed(root: Path, tmp_path: Path) -> Path:
    """A data set with one file of each kind that is passed over, and what is no business of anybody's."""
    mine = Path(shutil.copytree(root, tmp_path / "images"))
    photograph = mine / "train/class_0/000.jpg"
    for name in ("a.jfif", "b.JPE", "c.heic", "noname", "notes.txt", ".hidden.jfif"):
        shutil.copy(photograph, mine / "train/class_1" / name)
    (mine / "train/class_1/notes.txt").write_text("text")
    (mine / "train/class_2/deep/er").mkdir(parents=True)
    shutil.copy(photograph, mine / "train/class_2/deep/er/1.jpg")
    shutil.copy(photograph, mine / "train/class_2/deep/2.jfif")
    (mine / "train/class_2/deep/round").symlink_to(mine / "train", target_is_directory=True)
    (mine / "train/class_2/.thumbs").mkdir()
    shutil.copy(photograph, mine / "train/class_2/.thumbs/1.jpg")
    shutil.copy(photograph, mine / "val/lonely.jpg")
    return mine


def test_listing_counts_by_suffix_and_looks_into_nothing(mixed: Path) -> None:
    train, val = (open_split(mixed, split) for split in ("train", "val"))  # type: ignore[arg-type]
    assert train.passed_over == {".heic": 1, ".jfif": 1, ".jpe": 1, "folders inside class folders": 1}
    assert val.passed_over == {BESIDE: 1} and len(train) == 13
    assert passed_over_remark((train, val)) == (
        "passed over: .heic 1, .jfif 1, .jpe 1, folders inside class folders 1 in train; images outside class folders 1 in val"
    )


def test_nothing_is_said_where_nothing_is_passed_over(root: Path) -> None:
    train = open_split(root, "train")
    assert train.passed_over == {} and passed_over_remark([train]) is None


def test_a_kept_list_tells_it_too(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_cache, "WORTH_KEEPING", 1)
    monkeypatch.setattr(index_cache, "SECONDS_TO_SETTLE", -1.0)
    first, again = open_split(mixed, "train"), open_split(mixed, "train")
    assert again.made_of and dict(again.passed_over) == dict(first.passed_over) != {}


def test_members_of_shards_are_counted(mixed: Path, tmp_path: Path) -> None:
    shard = tmp_path / "shards/train-000000.tar"
    shard.parent.mkdir()
    with tarfile.open(shard, "w") as tar:
        for name in ("class_0/000.jpg", "class_1/000.jpg", "class_1/a.jfif"):
            tar.add(mixed / "train" / name, arcname=name)
    assert open_split(shard.parent, "train").passed_over == {".jfif": 1}


def test_all_of_it_is_told_with_an_example(mixed: Path) -> None:
    train, val = (passed_over(open_split(mixed, split)) for split in ("train", "val"))  # type: ignore[arg-type]
    assert {each.what: (each.count, each.example) for each in train} == {
        ".heic": (1, "train/class_1/c.heic"),
        ".jfif": (1, "train/class_1/a.jfif"),
        ".jpe": (1, "train/class_1/b.JPE"),
        IN_NESTED: (2, "train/class_2/deep/2.jfif"),
        UNNAMED: (1, "train/class_1/noname"),
        OTHER: (1, "train/class_1/notes.txt"),
    }
    assert [(each.what, each.count) for each in val] == [(BESIDE, 1)]


def said(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["data", "check", *map(str, arguments)], env={"COLUMNS": "200"})
    return result.exit_code, result.stdout + result.stderr


def test_the_command_says_it_and_goes_on(mixed: Path) -> None:
    code, text = said(mixed)
    assert code == 0 and "warning: 7 files that may be images are ignored" in text, text
    assert "Ignored, also by training" in text and "train/class_2/deep/2.jfif" in text


def test_a_set_of_one_split_is_checked_and_refused_as_by_training(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "train", tmp_path / "train")
    code, text = said(tmp_path)
    assert code == 3 and "has no val folder" in text and "hint: put the images into" in text, text
    assert re.search(r"^images +│ 13 ", text, re.MULTILINE), text


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda mine: shutil.rmtree(mine / "train"), "has no train folder"),
        (
            lambda mine: [shutil.rmtree(mine / split / f"class_{k}") for split in ("train", "val") for k in (0, 1)],
            "has one class, ",
        ),
        (lambda mine: (mine / "val/class_2").rename(mine / "val/other"), "only in train/: class_2; only in val/: other"),
        (lambda mine: [image.unlink() for image in (mine / "val/class_2").iterdir()], "class 'class_2' has no images in"),
    ],
)
def test_what_a_training_refuses_is_refused(root: Path, tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
    mine = Path(shutil.copytree(root, tmp_path / "images"))
    assert open_what_is_there(mine, {})[1] == []
    spoil(mine)
    ((told, hint),) = open_what_is_there(mine, {})[1]
    assert message in told and hint
    with pytest.raises(DataError) as refused:
        open_data(mine, len(open_what_is_there(mine, {})[0][0].classes))
    assert refused.value.message == told


def test_a_class_without_validation_images_is_said_and_another_number_of_classes_refused(root: Path, tmp_path: Path) -> None:
    """Lists may leave a class out of validation: training takes that, and so it is a warning."""
    for split, classes in (("train", (0, 1, 2)), ("val", (0, 1))):
        rows = [f"{root}/{split}/class_{label}/000.jpg,class_{label}\n" for label in classes]
        (tmp_path / f"{split}.csv").write_text("path,label\n" + "".join(rows))
    lists = [f"--set=data.{split}_csv={tmp_path}/{split}.csv" for split in ("train", "val")]
    code, text = said("--recipe", "quickstart", f"--set=data.root={root}", "--set=model.num_classes=5", *lists)
    assert code == 3 and "warning: class 'class_2' has no images in" in text, text
    assert text.count("error: ") == 1 and "hint: `--set model.num_classes=3`" in text


def test_nothing_to_check_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no train folder"):
        open_what_is_there(tmp_path, {})
