"""Class names and labels that stand in files: what they mean, and that contradictions are noticed."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from inceptionctl.data.dataset import open_data, open_split
from inceptionctl.data.sources.class_lists import LABEL_FILES, read_class_names, read_labels
from inceptionctl.errors import DataError
from tests.data.test_dataset import lay_out, names

WNIDS = ("n01440764", "n01443537", "n01484850")
ORDER = (2, 0, 1, 1)  # classes of the validation images, in the order of their names
VAL = [f"val/ILSVRC2012_val_{i:08d}.JPEG" for i in range(1, 5)]


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    """Three classes in folders for training, and a validation folder without classes."""
    return lay_out(tmp_path, *(f"train/{wnid}/{wnid}_{i}.JPEG" for wnid in WNIDS for i in (10, 7)), *reversed(VAL))


def synsets() -> str:
    return "".join(f"{WNIDS[label]}\n" for label in ORDER)


def kit_numbers() -> str:
    """The development kit's own numbers: they do not count sorted names."""
    return "".join(f"{KIT_IDS[label]}\n" for label in ORDER)


KIT_IDS = (3, 1, 2)


def meta() -> bytes:
    """The development kit's meta.mat: a struct array in MATLAB's format, with an inner node of the hierarchy at its end."""
    scipy_io = pytest.importorskip("scipy.io", reason="scipy is not installed: scripts/environment does it")
    rows = [
        (3, WNIDS[0], "tench", 0),
        (1, WNIDS[1], "goldfish", 0),
        (2, WNIDS[2], "white shark", 0),
        (4, "n00001740", "entity", 3),
    ]
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    file = io.BytesIO()
    scipy_io.savemat(file, {"synsets": np.array(rows, dtype=kinds).reshape(-1, 1)})
    return file.getvalue()


@pytest.mark.parametrize("name", LABEL_FILES[:2])
def test_label_files_are_found_by_their_names(imagenet: Path, name: str) -> None:
    (imagenet / name).write_text(synsets())
    train, val = open_data(imagenet, 3)
    assert train.classes == val.classes == WNIDS
    assert val.labels.tolist() == list(ORDER)
    assert [val.path(i) for i in range(4)] == [bytes(imagenet / file) for file in VAL]
    assert names(imagenet, "val") == [file.removeprefix("val/") for file in VAL]


def test_a_label_file_may_lie_elsewhere(imagenet: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("labels") / "mine.txt"
    file.write_text(synsets())
    assert open_split(imagenet, "val", val_labels=file).labels.tolist() == list(ORDER)


def test_the_development_kit_is_understood_unpacked_and_packed(imagenet: Path) -> None:
    folder = imagenet / "ILSVRC2012_devkit_t12/data"
    folder.mkdir(parents=True)
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text(kit_numbers())
    with pytest.raises(DataError, match=r"numbers of the development kit, and neither meta\.mat"):
        open_split(imagenet, "val")
    (folder / "meta.mat").write_bytes(meta())
    assert open_split(imagenet, "val").labels.tolist() == list(ORDER)
    kit = imagenet / "ILSVRC2012_devkit_t12.tar.gz"
    with tarfile.open(kit, "w:gz") as tar:
        tar.add(folder.parent, "ILSVRC2012_devkit_t12")
    for file in folder.iterdir():
        file.unlink()
    assert open_split(imagenet, "val").labels.tolist() == list(ORDER)
    kit.write_bytes(kit.read_bytes()[:200])
    with pytest.raises(DataError, match=r"cannot read .*devkit_t12\.tar\.gz"):
        open_split(imagenet, "val")


def test_numbers_that_the_kit_does_not_know_are_named(imagenet: Path) -> None:
    (imagenet / "meta.mat").write_bytes(meta())
    (imagenet / "ILSVRC2012_validation_ground_truth.txt").write_text("3\n1\n9\n1\n")
    with pytest.raises(DataError, match="line 3: 9 is no number of the development kit"):
        open_split(imagenet, "val")
    (imagenet / "meta.mat").write_bytes(b"nothing of MATLAB")
    with pytest.raises(DataError, match="is not the development kit's"):
        open_split(imagenet, "val")


def test_too_few_labels_and_unknown_ones_are_refused(imagenet: Path) -> None:
    file = imagenet / LABEL_FILES[0]
    file.write_text(synsets() + WNIDS[0] + "\n")
    with pytest.raises(DataError, match=r"val holds 4 images, .* has labels of 5"):
        open_split(imagenet, "val")
    file.write_text(synsets().replace(WNIDS[1], "n09999999"))
    with pytest.raises(DataError, match=r"names 1 class that the data set does not have: n09999999 \('n09999999' in line 3\)"):
        open_split(imagenet, "val")
    file.write_text("\n")
    with pytest.raises(DataError, match="is empty"):
        read_labels(file)


def test_a_validation_folder_without_classes_needs_labels(imagenet: Path) -> None:
    with pytest.raises(DataError, match="val has no class folders") as raised:
        open_split(imagenet, "val")
    assert "a file with the labels" in (raised.value.hint or "")


@pytest.mark.parametrize("described", [False, True])
def test_class_names_in_another_order_are_noticed(tmp_path: Path, described: bool) -> None:
    # As openvino-dev's imagenet_2015.txt: the same synsets, not sorted.
    root = lay_out(tmp_path, *(f"{split}/{wnid}/1.jpg" for split in ("train", "val") for wnid in WNIDS))
    file = tmp_path / "imagenet_2015.txt"
    file.write_text("".join(f"{WNIDS[i]}{' a fish, a real one' if described else ''}\n" for i in (1, 0, 2)))
    with pytest.raises(DataError, match="not in sorted order: 'n01440764', number 2, comes after 'n01443537'") as raised:
        open_data(root, 3, class_names=file)
    assert "--set data.class_order=listed" in (raised.value.hint or "")
    train, val = open_data(root, 3, class_names=file, class_order="listed")
    assert train.classes == val.classes == (WNIDS[1], WNIDS[0], WNIDS[2])
    assert b"n01443537/1.jpg" in train.path(0) and train.labels.tolist() == [0, 1, 2]
    file.write_text("".join(f"{wnid}\n" for wnid in WNIDS))
    assert open_data(root, 3, class_names=file)[0].classes == WNIDS


def test_class_names_that_contradict_the_folders_are_named(tmp_path: Path) -> None:
    root = lay_out(tmp_path, "train/a/1.jpg", "train/c/1.jpg")
    file = tmp_path / "names.txt"
    file.write_text("a\nb\n")
    with pytest.raises(DataError, match=r"only in .*train: c; only in .*names\.txt: b"):
        open_split(root, "train", class_names=file)


def write(file: Path, content: bytes) -> Path:
    file.write_bytes(content)
    return file


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "gone.txt", r"cannot read .*gone\.txt"),
        (lambda folder: write(folder / "b.txt", b"\xff\xfe\x00"), "is no text file"),
        (lambda folder: write(folder / "e.txt", b"\n\n"), "names no classes"),
        (lambda folder: write(folder / "t.txt", b"a\nb\na\n"), "names the class 'a' twice, in lines 1 and 3"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_class_names(make(tmp_path))
