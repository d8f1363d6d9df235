"""Validation images chosen by content: no image moves when others come, copies and groups stay together, every format that lacks a split."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inceptionctl.data.dataset import open_data, open_split
from inceptionctl.data.imageset import ImageSet
from inceptionctl.data.sources import index_cache
from inceptionctl.data.sources.division import classes_without
from inceptionctl.errors import DataError, RecipeError
from inceptionctl.recipe.load import default_recipe
from tests.commands import inceptionctl, sets
from tests.data.conftest import photo

CLASSES = ("cats", "dogs", "birds")


def put(folder: Path, start: int, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(start, start + count):
        Image.fromarray(photo(number, 8, 8)).save(folder / f"{number:04d}.png")


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """Three class folders of 60 images, and nothing else."""
    for label, name in enumerate(CLASSES):
        put(tmp_path / "photos" / name, 1000 * label, 60)
    return tmp_path / "photos"


def names(images: ImageSet) -> set[str]:
    return {Path(images.path(i).decode()).name for i in range(len(images))}


def both(root: Path, fraction: float = 0.2, **sources: object) -> tuple[ImageSet, ImageSet]:
    return tuple(open_split(root, split, val_fraction=fraction, **sources) for split in ("train", "val"))  # type: ignore[return-value, arg-type]


def test_class_folders_in_the_root_are_divided_class_by_class(flat: Path) -> None:
    train, val = both(flat)
    assert train.classes == val.classes == ("birds", "cats", "dogs")
    assert (train.split, val.split) == ("train", "val")
    assert names(train) | names(val) == {path.name for path in flat.rglob("*.png")} and not names(train) & names(val)
    assert (val.class_counts() > 3).all() and (val.class_counts() < 25).all()
    for part in (train, val):
        assert all(part.read(i)[:4] == b"\x89PNG" for i in range(len(part)))
        folders = [part.classes[label] for label in part.labels]
        assert folders == [Path(part.path(i).decode()).parent.name for i in range(len(part))]
    assert open_data(flat, 3, val_fraction=0.2)[1].names.slice(0, len(val)) == val.names.slice(0, len(val))


def test_new_images_move_no_others_and_copies_stay_on_one_side(flat: Path) -> None:
    before = both(flat)
    put(flat / "cats", 5000, 40)
    shutil.copy(flat / "cats/0000.png", flat / "cats/copy.png")
    shutil.copy(flat / "cats/0001.png", flat / "dogs/copy.png")
    train, val = both(flat)
    assert names(before[0]) <= names(train) and names(before[1]) <= names(val)
    for name, copy in (("0000.png", "cats/copy.png"), ("0001.png", "dogs/copy.png")):
        sides = [{Path(part.path(i).decode()).relative_to(flat).as_posix() for i in range(len(part))} for part in (train, val)]
        assert any({f"cats/{name}", copy} <= side for side in sides)


def test_groups_stay_together(flat: Path) -> None:
    for path in flat.rglob("*.png"):
        path.rename(path.with_name(f"object{int(path.stem) // 5}_{path.name}"))
    train, val = both(flat, group_by=r"(object\d+)_")
    assert len(val) > 0
    groups = [{name.partition("_")[0] for name in names(part)} for part in (train, val)]
    assert not groups[0] & groups[1]


def listed(flat: Path, header: str = "path,label,patient", patient: str = "{}") -> Path:
    """A list of the images, five of a patient."""
    rows = [f"{path},{path.parent.name},{patient.format(int(path.stem) // 5)}" for path in sorted(flat.rglob("*.png"))]
    file = flat.parent / "all.csv"
    file.write_text("\n".join([header, *rows]) + "\n")
    return file


def test_a_column_of_a_list_keeps_groups_together(flat: Path) -> None:
    file = listed(flat)
    train, val = both(flat.parent, train_csv=file, group_by_column="patient")
    groups = [{int(name.removesuffix(".png")) // 5 for name in names(part)} for part in (train, val)]
    assert not groups[0] & groups[1] and len(groups[0] | groups[1]) == 36
    assert [train.num_groups, val.num_groups] == [len(one) for one in groups] and len(val) == 5 * len(groups[1]) > 0
    assert (val.class_counts() > 0).all()
    file.write_text("\n".join(line for line in file.read_text().splitlines() if "/0000." not in line))
    assert names(both(flat.parent, train_csv=file, group_by_column="patient")[1]) == names(val) - {"0000.png"}


def test_a_column_without_a_value_for_each_image_is_refused(flat: Path) -> None:
    with pytest.raises(DataError, match=r"all\.csv has no column 'patent': the columns are path, label, patient"):
        both(flat.parent, train_csv=listed(flat), group_by_column="patent")
    with pytest.raises(DataError, match=r"line 2: no patient for "):
        both(flat.parent, train_csv=listed(flat, patient=""), group_by_column="patient")


def test_a_column_is_one_of_a_list_that_is_divided() -> None:
    for settings, words in (
        (["data.group_by_column=patient", "data.val_fraction=0.2"], "needs train_csv"),
        (["data.group_by_column=patient", "data.train_csv=all.csv"], "needs val_fraction"),
        (["data.group_by_column=a", "data.group_by=(b)", "data.train_csv=c", "data.val_fraction=0.2"], "exclude each other"),
    ):
        with pytest.raises(RecipeError) as caught:
            default_recipe(settings)
        assert words in caught.value.problems[0].message


def test_the_check_counts_the_groups(flat: Path) -> None:
    told = sets("data.val_fraction=0.2", f"data.train_csv={listed(flat)}", "data.group_by_column=patient")
    done = inceptionctl("data", "check", flat.parent, *told, "--json")
    assert done.returncode == 0, done.stderr
    counts = [split["num_groups"] for split in json.loads(done.stdout)["splits"]]
    assert sum(counts) == 36 and min(counts) > 0
    done = inceptionctl("data", "check", flat.parent, *told)
    [row] = [line for line in done.stdout.splitlines() if line.strip().startswith("groups")]
    assert re.findall(r"\d+", row) == [str(count) for count in counts]


@pytest.mark.parametrize(
    ("pattern", "words"),
    [("(", "is no regular expression"), ("object", "has no group"), ("(object)", "matches nothing in birds/2000.png")],
)
def test_a_wrong_expression_is_refused(flat: Path, pattern: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        both(flat, group_by=pattern)


def test_a_training_folder_and_a_list_are_divided_alike(flat: Path, tmp_path: Path) -> None:
    expected = both(flat)
    (tmp_path / "nested").mkdir()
    flat.rename(tmp_path / "nested/train")
    train, val = both(tmp_path / "nested")
    assert names(val) == names(expected[1]) and names(train) == names(expected[0])
    rows = [f"{path},{path.parent.name}\n" for path in sorted((tmp_path / "nested/train").rglob("*.png"))]
    (tmp_path / "all.csv").write_text("path,label\n" + "".join(rows))
    train, val = both(tmp_path, train_csv=tmp_path / "all.csv")
    assert names(val) == names(expected[1]) and names(train) == names(expected[0])


def test_a_split_that_is_there_is_not_divided(flat: Path, tmp_path: Path) -> None:
    shutil.copytree(flat, tmp_path / "nested/train")
    shutil.copytree(flat, tmp_path / "nested/val")
    with pytest.raises(DataError, match=r"val_fraction is set, and .* has validation images: val"):
        both(tmp_path / "nested")


def test_without_a_fraction_the_way_to_it_is_shown(flat: Path) -> None:
    with pytest.raises(DataError, match="has no train folder") as fault:
        open_split(flat, "train")
    assert "data.val_fraction=0.2" in str(fault.value.hint)


def test_a_class_without_training_images_is_refused_and_one_without_validation_images_is_named(flat: Path) -> None:
    put(flat / "one", 9000, 1)
    _, val = both(flat, 0.0001)
    assert len(val) == 0 and classes_without(val) == ["birds", "cats", "dogs", "one"]
    with pytest.raises(DataError, match=r"leaves no training images in .*one"):
        both(flat, 0.9999)


def test_hashes_of_a_large_data_set_are_kept_and_follow_its_files(flat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_cache, "WORTH_KEEPING", 100)
    expected = names(both(flat)[1])
    kept = flat / ".inceptionctl/content.npz"
    with np.load(kept) as arrays:
        assert len(arrays["stamps"]) == 180
    reads: list[int] = []
    real = ImageSet.read
    monkeypatch.setattr(ImageSet, "read", lambda images, i: reads.append(i) or real(images, i))
    assert names(both(flat)[1]) == expected and reads == []
    put(flat / "cats", 7000, 1)
    both(flat)
    assert len(reads) == 1
    kept.write_bytes(b"damaged")
    assert expected <= names(both(flat)[1])


def test_an_image_that_cannot_be_read_has_a_side_too(flat: Path) -> None:
    (flat / "cats/gone.png").symlink_to(flat / "nowhere")
    train, val = both(flat)
    assert "gone.png" in names(train) | names(val)
