"""Fetching ELPV, from a small package of the same form that pip takes from a local folder."""

from __future__ import annotations

import importlib.metadata
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inceptionctl.data import elpv
from inceptionctl.data.dataset import open_data
from inceptionctl.errors import DataError, EnvironmentFault

# By its files: to ask the import system for pip makes setuptools leave distutils alone for good, and torch's compiler then fails.
pytestmark = pytest.mark.skipif(
    not any(importlib.metadata.distributions(name="pip")), reason="pip, which fetches the data, is not installed"
)

CLASSES = {"mono_defect": 6, "mono_ok": 11, "poly_defect": 5, "poly_ok": 9}


def make_wheel(folder: Path) -> None:
    """A package like the real one: images in turn of all classes, and some of a doubtful label among them."""
    rows, left, number = [], dict(CLASSES), 0
    while any(left.values()):
        for label in [name for name, count in left.items() if count]:
            number += 1
            kind, state = label.split("_")
            rows.append((f"images/cell{number:04d}.png", "1.0" if state == "defect" else "0.0", kind))
            left[label] -= 1
        number += 1
        rows.append((f"images/cell{number:04d}.png", "0.3333333333333333", "poly"))
    info = "elpv_dataset-1.0.0.post1.dist-info"
    with zipfile.ZipFile(folder / "elpv_dataset-1.0.0.post1-py3-none-any.whl", "w") as archive:
        for i, (name, _, _) in enumerate(rows):
            with archive.open(f"elpv_dataset/data/{name}", "w") as file:
                Image.fromarray(np.full((8, 8), i, dtype=np.uint8)).save(file, format="PNG")
        archive.writestr("elpv_dataset/data/labels.csv", "".join(f"{name}  {label:20}{kind}\n" for name, label, kind in rows))
        archive.writestr(f"{info}/licenses/LICENSE.md", "Attribution-NonCommercial-ShareAlike 4.0 International")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: elpv-dataset\nVersion: 1.0.0.post1\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes packages from, and from nowhere else."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setattr(elpv, "NUM_IMAGES", CLASSES)
    return folder


def test_images_are_sorted_into_classes_and_splits(tmp_path: Path, index: Path) -> None:
    make_wheel(index)
    said: list[str] = []
    dest = tmp_path / "data" / "elpv"
    elpv.fetch_elpv(dest, said.append)
    train, val = open_data(dest, 4)
    assert train.classes == ("mono_defect", "mono_ok", "poly_defect", "poly_ok")
    assert train.class_counts().tolist() == [5, 9, 4, 8]
    assert val.class_counts().tolist() == [1, 2, 1, 1]
    # The 5th and the 10th of the class, by file name; a file stands in one split only.
    all_ok = sorted(path.name for path in dest.glob("*/mono_ok/*.png"))
    assert sorted(path.name for path in (dest / "val/mono_ok").iterdir()) == [all_ok[4], all_ok[9]]
    assert len(set(all_ok)) == 11
    assert "CC BY-NC-SA 4.0" in said[0] and "10.4229/35thEUPVSEC20182018-5CV.3.15" in said[0]
    licence = (dest / "LICENSE.txt").read_text(encoding="utf-8")
    assert elpv.license_of(dest, train.classes) == "CC BY-NC-SA 4.0"
    assert elpv.license_of(dest, ("mono_defect", "mono_ok")) is elpv.license_of(tmp_path, train.classes) is None
    assert "not for commercial use" in licence and "Attribution-NonCommercial-ShareAlike 4.0 International" in licence
    assert [path.name for path in dest.parent.iterdir()] == ["elpv"]


def test_one_kind_of_cells_has_two_classes_and_the_same_split(tmp_path: Path, index: Path) -> None:
    make_wheel(index)
    both, mono = tmp_path / "both", tmp_path / "mono"
    elpv.fetch_elpv(both, print)
    said: list[str] = []
    elpv.fetch_elpv(mono, said.append, ("mono",))
    assert said[-1] == f"17 images in {mono}, every 5th of a class for validation"
    names = {path.relative_to(mono) for path in mono.glob("*/*/*.png")}
    assert names == {path.relative_to(both) for path in both.glob("*/mono_*/*.png")}
    elpv.fetch_elpv(mono, said.append, ("mono",))
    assert said[-1] == f"{mono} is complete already"
    with pytest.raises(DataError, match="is occupied by something else"):
        elpv.fetch_elpv(mono, print, ("poly",))


def test_a_complete_folder_is_left_alone(tmp_path: Path, index: Path) -> None:
    make_wheel(index)
    dest = tmp_path / "elpv"
    dest.mkdir()  # empty: as good as none
    elpv.fetch_elpv(dest, print)
    (index / "elpv_dataset-1.0.0.post1-py3-none-any.whl").unlink()
    said: list[str] = []
    elpv.fetch_elpv(dest, said.append)
    assert said == [f"{dest} is complete already"]
    next(dest.glob("train/poly_ok/*.png")).unlink()
    with pytest.raises(DataError, match="is occupied by something else"):
        elpv.fetch_elpv(dest, print)


def test_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(DataError, match="is occupied by something else"):
        elpv.fetch_elpv(tmp_path, print)
    with pytest.raises(DataError, match="is occupied by something else"):
        elpv.fetch_elpv(tmp_path / "thesis.tex", print)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_pips_failure_is_worded_and_leaves_nothing(tmp_path: Path, index: Path) -> None:
    dest = tmp_path / "data" / "elpv"
    with pytest.raises(
        EnvironmentFault, match=r"pip could not fetch elpv-dataset==1\.0\.0\.post1: ERROR: .*elpv-dataset"
    ) as raised:
        elpv.fetch_elpv(dest, lambda message: None)
    assert "-m pip download --no-deps elpv-dataset==1.0.0.post1" in (raised.value.hint or "")
    assert list(dest.parent.iterdir()) == []


def test_a_python_without_pip_is_worded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = tmp_path / "bare-python"
    bare.write_text(f"#!/bin/sh\necho '{sys.executable}: No module named pip' >&2\nexit 1\n")
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))
    with pytest.raises(EnvironmentFault, match="has no pip") as raised:
        elpv.fetch_elpv(tmp_path / "elpv", lambda message: None)
    assert "-m ensurepip" in (raised.value.hint or "")


def test_a_package_with_other_images_is_refused(tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_wheel(index)
    monkeypatch.setattr(elpv, "NUM_IMAGES", {**CLASSES, "poly_ok": 10})
    with pytest.raises(DataError, match="holds other images"):
        elpv.fetch_elpv(tmp_path / "elpv", lambda message: None)
    assert not (tmp_path / "elpv").exists()
