"""`data check` as a user types it, and the list that it writes, up to a training that leaves those images out."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from inceptionctl.data.sources.exclusions import unescaped
from tests.commands import TINY, inceptionctl, refused, sets

ODD_NAMES = (b"line\nbreak.jpg", b"\xff\xfe.jpg", b"[bold]back\\slash.jpg")


@pytest.fixture
def spoilt(root: Path, tmp_path: Path) -> Path:
    """A data set with three bad images of odd names, a copy within a class, and one that is in validation too."""
    copy = tmp_path / "images"
    shutil.copytree(root, copy)
    for name in ODD_NAMES:
        Path(os.fsdecode(bytes(copy / "train/class_0") + b"/" + name)).write_bytes(b"no image")
    shutil.copy(copy / "train/class_1/000.jpg", copy / "train/class_1/copy.jpg")
    shutil.copy(copy / "val/class_2/000.jpg", copy / "train/class_2/leak.jpg")
    return copy


def test_the_tables_name_what_is_bad_and_odd(spoilt: Path) -> None:
    result = inceptionctl("data", "check", spoilt)
    refused(result, 3, f"3 of the images of {spoilt} cannot be used", "--write-exclusions FILE")
    assert "warning: LEAK: 1 of the validation images is a training image too" in result.stderr
    assert "images/s" in result.stderr
    for words in (
        r"train/class_0/line\nbreak.jpg",
        r"train/class_0/\xff\xfe.jpg",
        r"train/class_0/[bold]back\\slash.jpg",
        "no image: the file is no image (it starts with b'no image')",
        "Exact duplicates: 2",
        "train/class_1/000.jpg, train/class_1/copy.jpg",
    ):
        assert words in result.stdout, result.stdout


def test_long_lists_are_cut_on_screen_and_whole_in_the_file(spoilt: Path, tmp_path: Path) -> None:
    for i in range(30):
        (spoilt / f"train/class_0/bad_{i:02d}.jpg").write_bytes(b"")
    result = inceptionctl("data", "check", spoilt, "--output", tmp_path / "report.json")
    assert result.returncode == 3 and "and 13 more" in result.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(report["splits"][0]["bad"]) == 33 and report["splits"][0]["found"] == {"empty": 30, "no image": 3}


def test_the_report_is_json_with_names_that_can_be_read_back(spoilt: Path) -> None:
    result = inceptionctl("data", "check", spoilt, "--json")
    report = json.loads(result.stdout)
    names = {unescaped(bad["name"]) for bad in report["splits"][0]["bad"]}
    assert names == {b"train/class_0/" + name for name in ODD_NAMES}
    assert report["splits"][0]["bad"][0]["remarks"].keys() == {"no image"}
    assert [[copy["split"] for copy in group] for group in report["duplicates"]["groups"]] == [
        ["train", "train"],
        ["train", "val"],
    ]


def test_what_is_on_the_list_is_not_checked_again(spoilt: Path, tmp_path: Path) -> None:
    excluded = tmp_path / "exclusions.txt"
    assert inceptionctl("data", "check", spoilt, "--write-exclusions", excluded).returncode == 3
    assert len([line for line in excluded.read_text().splitlines() if not line.startswith("#")]) == 3
    settings = sets(f"data.root={spoilt}", f"data.exclusions={excluded}", "model.num_classes=3")
    result = inceptionctl("data", "check", "--recipe", "quickstart", *settings, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["splits"][0]["num_images"] == 15
    other = tmp_path / "of_other_data.txt"
    other.write_text("n01440764/n01440764_10026.JPEG\n")
    wrong = inceptionctl("data", "check", spoilt, *sets(f"data.exclusions={other}"))
    refused(wrong, 3, "names 1 image, 1 of which is not in", "n01440764_10026.JPEG")
    # A list that is written anew holds what the old one held.
    again = inceptionctl("data", "check", *settings, spoilt, "--write-exclusions", excluded, "--also", "duplicate")
    assert again.returncode == 3
    names = [line for line in excluded.read_text().splitlines() if not line.startswith("#")]
    assert len(names) == 5 and names[-2:] == ["train/class_1/copy.jpg", "train/class_2/leak.jpg"]


def test_packing_leaves_out_what_is_on_the_list(spoilt: Path, tmp_path: Path) -> None:
    (spoilt / "train/class_0/link.jpg").symlink_to("nowhere")
    excluded, packed = tmp_path / "exclusions.txt", tmp_path / "packed"
    inceptionctl("data", "check", spoilt, "--write-exclusions", excluded)
    refused(inceptionctl("data", "pack", spoilt, tmp_path / "other"), 3, "link.jpg")
    assert "22 images" in inceptionctl("data", "pack", spoilt, packed, "--exclusions", excluded).stderr
    result = inceptionctl("data", "check", packed, "--json")
    assert result.returncode == 0 and json.loads(result.stdout)["splits"][0]["num_images"] == 15


def test_wrong_options_are_refused(root: Path, tmp_path: Path) -> None:
    refused(inceptionctl("data", "check"), 2, "no data set to check", "--recipe RECIPE")
    refused(inceptionctl("data", "check", root, "--also", "small"), 2, "--also small is not a kind", "duplicate, mislabelled")
    refused(inceptionctl("data", "check", root, "--also", "tiny"), 2, "--also needs --write-exclusions")
    refused(
        inceptionctl("data", "check", root, *sets("data.formt=csv")), 2, "data.formt: unknown key", "did you mean `format`?"
    )
    refused(
        inceptionctl("data", "check", root, "--output", tmp_path / "no/such/file.json"), 4, "no/such", "its folder is missing"
    )
    refused(inceptionctl("data", "check", root, "--write-exclusions", tmp_path), 4, "is a folder")


def test_a_run_leaves_out_what_its_list_says_and_keeps_the_list(spoilt: Path, tmp_path: Path) -> None:
    excluded = tmp_path / "exclusions.txt"
    inceptionctl("data", "check", spoilt, "--write-exclusions", excluded, "--also", "duplicate")
    settings = sets(
        *TINY,
        "model.num_classes=3",
        f"data.root={spoilt}",
        f"data.exclusions={excluded}",
        "train.epochs=1",
        "schedule.warmup_epochs=0",
    )
    command = ("train", "quickstart", *settings, "--output", tmp_path / "run", "--cpu-ranks", "1")
    result = inceptionctl(*command)
    assert result.returncode == 0, result.stderr
    assert "13 training and 7 validation images" in (tmp_path / "run/log.txt").read_text()
    assert (tmp_path / "run/exclusions.txt").read_text() == excluded.read_text()
    evaluated = inceptionctl("evaluate", tmp_path / "run", "--json")
    assert json.loads(evaluated.stdout)["num_images"] == 7
    with excluded.open("a") as file:
        file.write("train/class_0/000.jpg\n")
    refused(inceptionctl(*command), 5, "data.exclusions: the list", "is not the one that", "another --output")
