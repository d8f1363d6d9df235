"""Lists kept on disk: used while nothing has changed, made anew after any change, never in the way."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from inceptionctl.data.dataset import ImageSet, open_split
from inceptionctl.data.sources import folders, index_cache
from inceptionctl.errors import DataError
from tests.data.test_dataset import lay_out
from tests.disks import mount_small

NAMES = ("train/a/1.jpg", "train/a/10.jpg", "train/b/ü.png", "train/b/\udcff.jpg")


@pytest.fixture
def settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small data set that is worth keeping a list of, unchanged for a while."""
    monkeypatch.setattr(index_cache, "WORTH_KEEPING", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    root = lay_out(tmp_path / "data", *NAMES)
    settle(root)
    return root


def settle(root: Path) -> None:
    for folder in (root / "train", *(root / "train").iterdir()):
        os.utime(folder, (time.time() - 60, time.time() - 60))


def contents(images: ImageSet) -> tuple[object, ...]:
    return images.classes, images.labels.tolist(), [images.path(i) for i in range(len(images))], images.folder, len(images)


def nothing_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "_image_names", lambda folder: pytest.fail(f"{folder} was listed"))


def test_a_list_is_kept_and_taken_as_it_was(settled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = contents(open_split(settled, "train"))
    assert (settled / ".inceptionctl/train.index").is_file()
    nothing_is_listed(monkeypatch)
    images = open_split(settled, "train")
    assert contents(images) == first
    # Mapped, not read: all ranks of a machine share it.
    assert isinstance(images.labels.base, np.ndarray) and "inceptionctl/train.index" in Path("/proc/self/maps").read_text()


def test_a_list_moves_with_its_data(settled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_split(settled, "train")
    moved = settled.rename(settled.with_name("moved"))
    nothing_is_listed(monkeypatch)
    assert Path(os.fsdecode(open_split(moved, "train").path(0))) == moved / NAMES[0]


@pytest.mark.parametrize("change", ["added", "removed", "renamed", "new class"])
def test_a_change_is_noticed(settled: Path, change: str) -> None:
    before = contents(open_split(settled, "train"))
    if change == "added":
        lay_out(settled, "train/b/2.jpg")
    elif change == "removed":
        (settled / NAMES[0]).unlink()
    elif change == "renamed":
        (settled / NAMES[0]).rename(settled / "train/a/2.jpg")
    else:
        lay_out(settled, "train/c/1.jpg")
    after = contents(open_split(settled, "train"))
    assert after != before
    settle(settled)
    assert contents(open_split(settled, "train")) == after == contents(open_split(settled, "train"))


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[:-1], lambda data: b"\xff" * 100, lambda data: data[:200]]
)
def test_a_damaged_list_is_made_anew(settled: Path, damage: object) -> None:
    first = contents(open_split(settled, "train"))
    file = settled / ".inceptionctl/train.index"
    whole = file.read_bytes()
    file.write_bytes(damage(whole))  # type: ignore[operator]
    assert contents(open_split(settled, "train")) == first
    assert file.read_bytes() == whole


def test_where_the_data_cannot_be_written_the_home_folder_keeps_the_list(
    settled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (settled / ".inceptionctl").write_text("a file where the folder would be")
    settle(settled)
    first = contents(open_split(settled, "train"))
    assert list((tmp_path / "home/inceptionctl").glob("*/train.index"))
    with monkeypatch.context() as without:
        nothing_is_listed(without)
        assert contents(open_split(settled, "train")) == first
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert contents(open_split(settled, "train")) == first  # nowhere to keep it: listed every time


def test_what_has_just_changed_or_is_small_is_not_kept(settled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out(settled, "train/b/2.jpg")
    open_split(settled, "train")
    assert not (settled / ".inceptionctl").exists()
    settle(settled)
    monkeypatch.setattr(index_cache, "WORTH_KEEPING", 6)
    open_split(settled, "train")
    assert not (settled / ".inceptionctl").exists()


def test_a_list_of_other_class_names_is_not_taken(settled: Path, tmp_path: Path) -> None:
    open_split(settled, "train")
    names = tmp_path / "names.txt"
    names.write_text("b\na\n")
    assert open_split(settled, "train", class_names=names, class_order="listed").classes == ("b", "a")
    assert open_split(settled, "train").classes == ("a", "b")
    names.write_text("a\n")
    with pytest.raises(DataError, match="only in"):
        open_split(settled, "train", class_names=names)


def test_a_list_that_fills_the_disk_is_not_kept(settled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    disk = settled / ".inceptionctl"
    disk.mkdir()
    mount_small(disk, "size=64k")
    try:
        (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free))
        settle(settled)
        assert len(open_split(settled, "train")) == len(NAMES)
        assert [file.name for file in disk.iterdir()] == ["ballast"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)
