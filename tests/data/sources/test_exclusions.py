"""Images that a list excludes are left out of every form of data set, and nothing else is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from inceptionctl.data.dataset import ImageSet, open_data, open_split
from inceptionctl.data.shard_writer import pack
from inceptionctl.data.sources import exclusions, index_cache
from inceptionctl.data.sources.class_lists import LABEL_FILES
from inceptionctl.data.sources.exclusions import escaped, listing, name_below, read_exclusions, unescaped
from inceptionctl.errors import DataError
from tests.data.conftest import fill
from tests.data.sources.test_tfrecords import ROWS, example, write

NAMES = (
    b"train/a/1.jpg",
    b"train/\xff\xfe.jpg",
    b"a\nb\rc\td.jpg",
    b"back\\slash\\n \\x41.jpg",
    b"#1.jpg",
    b" space and tab\t",
    "train/ü/\u2028 ß\u3000.jpg ".encode(),
    "\u00a0".encode(),
    b"\x85\x0b\x0c\x1c",
    b"shard.tar!folder/x!y.jpg",
)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_survives_being_written(name: bytes, tmp_path: Path) -> None:
    assert "\n" not in escaped(name) and unescaped(escaped(name)) == name
    file = tmp_path / "list.txt"
    file.write_text(listing([(escaped(name), "a reason\nin two lines"), ("other", "x")]), encoding="utf-8")
    assert read_exclusions(file, tmp_path).names == {name, b"other"}


def test_lists_may_be_written_by_hand(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_bytes(f"\ufeff# a comment\r\n\r\n./train/a/1.jpg\r\n  {tmp_path}/val/b/2.jpg  \n".encode() + b"\xff.jpg")
    assert read_exclusions(file, tmp_path).names == {b"train/a/1.jpg", b"val/b/2.jpg", b"\xff.jpg"}


def test_a_missing_list_is_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read the list of exclusions .*none\.txt: No such file"):
        open_split(root, "train", exclusions=tmp_path / "none.txt")


def folder(root: Path) -> dict[str, Path]:
    for split in ("train", "val"):
        for label in ("a", "b", "c"):
            fill(root / split / label, 5, seed=0)
    return {}


def flat_validation(root: Path) -> dict[str, Path]:
    folder(root)
    for i, file in enumerate(sorted((root / "val").glob("*/*"))):
        file.rename(root / "val" / f"{i:02d}.jpg")
    for label in ("a", "b", "c"):
        (root / "val" / label).rmdir()
    (root / LABEL_FILES[0]).write_text("a\nb\nc\n" * 5)
    return {}


def shards(root: Path) -> dict[str, Path]:
    unpacked = root.with_name(f"{root.name}-unpacked")
    folder(unpacked)
    sets = [open_split(unpacked, split) for split in ("train", "val")]
    pack(sets[0], sets[1], root, 20_000, lambda what, done, total: None)
    return {}


def records(root: Path) -> dict[str, Path]:
    for split in ("train", "validation"):
        write(root / f"{split}-00000-of-00002", [example(row) for row in ROWS[:4]])
        write(root / f"{split}-00001-of-00002", [example(row) for row in ROWS[4:]])
    return {}


def lists(root: Path) -> dict[str, Path]:
    folder(root)
    for split in ("train", "val"):
        rows = [f"{file.relative_to(root)},{file.parent.name}" for file in sorted((root / split).glob("*/*"), reverse=True)]
        (root / f"{split}.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    return {"train_csv": root / "train.csv", "val_csv": root / "val.csv"}


FORMS = (folder, flat_validation, shards, records, lists)


def listed(images: ImageSet) -> list[tuple[bytes, int, bytes]]:
    return [(name_below(images, i), int(images.labels[i]), images.read(i)) for i in range(len(images))]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
@pytest.mark.parametrize("split", ["train", "val"])
def test_named_images_are_left_out_of_every_form(
    tmp_path: Path, form: Callable[[Path], dict[str, Path]], split: exclusions.index_cache.Split
) -> None:
    root = tmp_path / "data"
    sources = form(root)
    before = listed(open_split(root, split, **sources))
    # Neighbours, the first and the last among them, but never all of a class.
    out = {before[i][0] for i in (0, 1, len(before) - 2, len(before) - 1)}
    file = tmp_path / "list.txt"
    file.write_text(listing((escaped(name), "why") for name in [*out, b"train/none.jpg"]))
    rest = open_split(root, split, **sources, exclusions=file)
    assert listed(rest) == [image for image in before if image[0] not in out]
    assert {unescaped(name) for name in rest.left_out} == out
    assert rest.classes == open_split(root, split, **sources).classes


def test_a_shard_may_lose_all_its_images(tmp_path: Path) -> None:
    root = tmp_path / "data"
    shards(root)
    before = open_split(root, "train")
    assert before.pieces is not None and len(before.pieces.files) > 2
    second = [i for i in range(len(before)) if before.pieces.shard_of(i) == 1]
    file = tmp_path / "list.txt"
    file.write_text(listing((escaped(name_below(before, i)), "why") for i in second))
    rest = open_split(root, "train", exclusions=file)
    assert listed(rest) == [image for i, image in enumerate(listed(before)) if i not in second]


def test_a_class_without_training_images_is_refused(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    for split in ("train", "val"):
        file.write_text("\n".join(str(path.relative_to(root)) for path in (root / split / "class_1").iterdir()))
        if split == "train":
            with pytest.raises(DataError, match="leaves no training images in class_1"):
                open_split(root, split, exclusions=file)
        else:
            assert open_split(root, "val", exclusions=file).class_counts().tolist() == [3, 0, 2]


def test_a_list_of_other_data_is_refused(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_text("train/class_0/000.jpg\nval/class_0/000.jpg\ngone.jpg\n")
    train, val = open_data(root, 3, exclusions=file)  # some files may be gone by now
    assert (len(train), len(val)) == (12, 6)
    file.write_text("train/class_0/000.jpg\nn01/gone.jpg\nshard.tar!x.jpg\n")
    with pytest.raises(
        DataError, match=r"names 3 images, 2 of which are not in .*: n01/gone\.jpg, shard\.tar!x\.jpg"
    ) as raised:
        open_data(root, 3, exclusions=file)
    assert raised.value.hint and f"inceptionctl data check {root} --write-exclusions FILE" in raised.value.hint


def test_what_is_left_is_kept_and_shared(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_cache, "WORTH_KEEPING", 1)
    monkeypatch.setattr(index_cache, "SECONDS_TO_SETTLE", -60.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    copy = tmp_path / "data"
    folder(copy)
    file = tmp_path / "list.txt"
    file.write_text("train/a/001.jpg\n")
    first = listed(open_split(copy, "train", exclusions=file))
    assert (copy / ".inceptionctl/train.without.index").is_file() and len(first) == 14
    with monkeypatch.context() as patch:
        patch.setattr(exclusions, "_without", lambda images, names: pytest.fail("made anew"))
        again = open_split(copy, "train", exclusions=file)
        assert listed(again) == first and again.left_out == ("train/a/001.jpg",)
    # Mapped from the file, as other ranks map it too: no copy in this process.
    for array in (again.labels, again.names.block, again.names.ends):
        base = array
        while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
            base = base.base  # type: ignore[assignment]
        assert isinstance(base, np.memmap)
    file.write_text("train/a/001.jpg\ntrain/b/003.jpg\n")
    assert len(open_split(copy, "train", exclusions=file)) == 13
    os.remove(copy / "train/c/004.jpg")  # noqa: PTH107
    assert len(open_split(copy, "train", exclusions=file)) == 12
    assert len(open_split(copy, "train")) == 14
