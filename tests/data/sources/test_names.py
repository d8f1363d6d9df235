"""Names are decided when a data set is opened: class names must be lines of UTF-8, names of images may be any bytes; typos are told."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest

from inceptionctl.data.dataset import open_data, open_split
from inceptionctl.data.shard_writer import pack
from inceptionctl.data.sources import class_lists
from inceptionctl.data.sources.class_lists import check_names, escaped_name
from inceptionctl.errors import DataError, EnvironmentFault, InceptionctlError
from inceptionctl.nearby import did_you_mean
from inceptionctl.storage import write_atomically
from tests.data.conftest import fill
from tests.data.sources.test_tfrecords import example, record

BAD = b"caf\xe9"


def add_class(root: Path, name: bytes) -> None:
    for split in ("train", "val"):
        shutil.copytree(root / split / "class_0", Path(os.fsdecode(bytes(root / split) + b"/" + name)))


@pytest.fixture
def mine(root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(root, tmp_path / "images"))


@pytest.mark.parametrize(
    ("name", "shown", "why"),
    [
        (BAD, r"caf\xe9", "not UTF-8"),
        (b"two\nlines", r"two\nlines", "end a line"),
        (b"\x1b[31mred", r"\x1b[31mred", "control a terminal"),
        ("a\u2028b".encode(), r"a\u2028b", "end a line"),
        (b" ", " ", "nobody can see"),
    ],
)
def test_a_class_folder_that_is_no_line_of_text_is_refused(mine: Path, name: bytes, shown: str, why: str) -> None:
    add_class(mine, name)
    with pytest.raises(DataError) as refused:
        open_data(mine, 4)
    assert f"a class of {mine}/train is called '{shown}'" in refused.value.message and why in refused.value.message
    assert f"`mv {mine}/train/$'{shown}' {mine}/train/NAME`" in str(refused.value.hint)


def csv_list(folder: Path) -> dict[str, Path]:
    file = folder / "train.csv"
    file.write_bytes(b"path,label\n%b,%b\n" % (bytes(folder / "x.jpg"), BAD))
    (folder / "x.jpg").write_bytes(b"x")
    return {"train_csv": file}


def tar_of(folder: Path, members: dict[bytes, bytes]) -> Path:
    file = folder / "train-000000.tar"
    with tarfile.open(file, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in members.items():
            told = tarfile.TarInfo(os.fsdecode(name))
            told.size = len(content)
            tar.addfile(told, BytesIO(content))
    return file


def folder_in_a_shard(folder: Path) -> dict[str, Path]:
    tar_of(folder, {BAD + b"/1.jpg": b"x"})
    return {}


def name_in_json(folder: Path) -> dict[str, Path]:
    tar_of(folder, {b"1.jpg": b"x", b"1.json": json.dumps({"label": "caf\udce9"}).encode()})
    return {}


def imagenet_tar(folder: Path) -> dict[str, Path]:
    inner = tar_of(folder, {b"1.JPEG": b"x"}).read_bytes()
    (folder / "train-000000.tar").unlink()
    tar_of(folder, {BAD + b".tar": inner}).rename(folder / "ILSVRC2012_img_train.tar")
    return {}


def tfrecord(folder: Path) -> dict[str, Path]:
    (folder / "train-00000-of-00001").write_bytes(record(example((b"x", 1, "SYNSET", "1.jpg")).replace(b"SYNSET", BAD + b"__")))
    return {}


@pytest.mark.parametrize("make", [csv_list, folder_in_a_shard, name_in_json, imagenet_tar, tfrecord])
def test_so_it_is_in_every_other_form(tmp_path: Path, make: Callable[[Path], dict[str, Path]]) -> None:
    lists = make(tmp_path)
    with pytest.raises(DataError, match=r"is called 'caf\\xe9(__)?', which is not UTF-8") as refused:
        open_split(tmp_path, "train", **lists)  # type: ignore[arg-type]
    assert "write the name in UTF-8" in str(refused.value.hint)


def test_a_list_of_names_in_another_encoding_tells_its_line(mine: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_bytes(b"class_0\n" + BAD + b"\nclass_2\n")
    with pytest.raises(DataError, match=r"names.txt is no text file in UTF-8: line 2 is 'caf\\xe9'") as refused:
        open_split(mine, "train", class_names=names)
    assert "iconv" in str(refused.value.hint)


def test_the_locale_is_to_blame_where_it_spells_names_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("café", "plain")
    check_names(names, Path("train"), class_folders=True)
    monkeypatch.setattr(class_lists.sys, "getfilesystemencoding", lambda: "iso8859-1")
    with pytest.raises(EnvironmentFault, match="file names are iso8859-1") as refused:
        check_names(names, Path("train"), class_folders=True)
    assert "PYTHONUTF8=1" in str(refused.value.hint)
    check_names(names[1:], Path("train"), class_folders=True)


def test_escaped_names_are_those_of_bash() -> None:
    assert escaped_name(os.fsdecode(b"it's\\ \xff\t" + "é日".encode())) == r"it\'s\\ \xff\té日"


def test_a_class_that_classes_txt_cannot_hold_is_not_packed(mine: Path, tmp_path: Path) -> None:
    add_class(mine, b"odd ")
    splits = [open_split(mine, split) for split in ("train", "val")]  # type: ignore[arg-type]
    with pytest.raises(DataError, match="'odd ' begins or ends with a space"):
        pack(*splits, tmp_path / "packed", 10**6)
    assert not (tmp_path / "packed").exists()


def test_one_class_is_refused_and_no_hint_leads_back_to_it(tmp_path: Path) -> None:
    for split in ("train", "val"):
        fill(tmp_path / split / "cat", 1, seed=0)
    with pytest.raises(DataError, match="has one class, 'cat': there is nothing to tell apart") as refused:
        open_data(tmp_path, 1000)
    assert "num_classes" not in str(refused.value)


def test_the_hints_on_an_empty_validation_class_work(root: Path, tmp_path: Path) -> None:
    """What they say is done, one time each: no other refusal follows but the number of classes, whose hint works too."""
    for way in ("move", "remove"):
        mine = Path(shutil.copytree(root, tmp_path / way))
        for image in (mine / "val/class_1").iterdir():
            image.unlink()
        shutil.copy(mine / "train/class_1/000.jpg", mine / "val/class_1/000.jfif")
        with pytest.raises(
            DataError, match=r"class 'class_1' has no images in .*val \(passed over there: .jfif 1\)"
        ) as refused:
            open_data(mine, 3)
        hint = str(refused.value.hint)
        assert "move some of its training images there, or remove its folder from val/ and train/ both" in hint
        if way == "move":
            (mine / "train/class_1/000.jpg").rename(mine / "val/class_1/000.jpg")
            open_data(mine, 3)
        else:
            shutil.rmtree(mine / "val/class_1")
            shutil.rmtree(mine / "train/class_1")
            with pytest.raises(DataError) as fewer:
                open_data(mine, 3)
            assert fewer.value.hint == "`--set model.num_classes=2`"
            open_data(mine, 2)


def test_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "Weights/deep").mkdir(parents=True)
    (tmp_path / "Weights/deep/model.safetensors").write_bytes(b"")
    assert did_you_mean(tmp_path / "weigths/deep/model.safetensors") == (
        f"did you mean {tmp_path}/Weights/deep/model.safetensors? "
    )
    assert did_you_mean(tmp_path / "Weights/deep/modle.safetensors").endswith("/model.safetensors? ")
    assert did_you_mean(tmp_path / "weigths/nothing.pt") == f"did you mean {tmp_path}/Weights? "
    assert did_you_mean(tmp_path / "Weights") == did_you_mean(tmp_path / "quite/other") == ""


def misspelt_init_from(folder: Path) -> None:
    from inceptionctl.train.inheritance import find_weights

    find_weights(folder / "exsiting")


def misspelt_checkpoint(folder: Path) -> None:
    from inceptionctl.train.checkpoint_files import open_checkpoint

    open_checkpoint(folder / "exsiting")


def misspelt_weights(folder: Path) -> None:
    from inceptionctl.weights.weight_files import read

    read(folder / "exsiting", "ema")


def misspelt_image(folder: Path) -> None:
    from inceptionctl.evaluate.unlabelled import images_of

    images_of([folder / "exsiting"])


def misspelt_recipe(folder: Path) -> None:
    from inceptionctl.recipe.load import find_recipe

    find_recipe(str(folder / "exsiting"))


MISSPELT: list[Callable[[Path], object]] = [
    misspelt_init_from,
    misspelt_checkpoint,
    misspelt_weights,
    misspelt_image,
    misspelt_recipe,
    lambda folder: open_split(folder / "exsiting", "train"),
    lambda folder: open_split(folder, "train", train_csv=folder / "exsiting"),
    lambda folder: open_split(folder, "train", class_names=folder / "exsiting"),
]


@pytest.mark.parametrize("use", MISSPELT)
def test_a_misspelt_path_is_said_not_to_be_there_and_the_nearest_named(tmp_path: Path, use: Callable[[Path], object]) -> None:
    (tmp_path / "existing").write_bytes(b"")
    with pytest.raises(InceptionctlError) as refused:
        use(tmp_path)
    assert str(tmp_path / "exsiting") in refused.value.message
    assert str(refused.value.hint).startswith(f"did you mean {tmp_path}/existing? "), refused.value.hint


def test_a_path_that_is_no_utf_8_does_not_spoil_a_file_of_json(tmp_path: Path) -> None:
    told = {"root": os.fsdecode(BAD)}
    write_atomically(tmp_path / "told.json", json.dumps(told, ensure_ascii=False))
    assert json.loads((tmp_path / "told.json").read_text(encoding="utf-8")) == told
