"""The development kit's blacklist and ReaL's labels on images that are named as ImageNet's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from inceptionctl.cli import app
from inceptionctl.data.dataset import ImageSet, open_split
from inceptionctl.data.sources.exclusions import find_blacklist, image_numbers, without_blacklisted
from inceptionctl.errors import DataError
from inceptionctl.evaluate.metrics import real_errors
from inceptionctl.run import Run
from tests.evaluate.making import CLASSES


@pytest.fixture(scope="module")
def named(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 24 validation images under ImageNet's names; the numbers do not follow the classes."""
    root = Path(shutil.copytree(data, tmp_path_factory.mktemp("named") / "imagenet"))
    for i, file in enumerate(sorted((root / "val").glob("*/*.jpg"))):
        file.rename(file.with_name(f"ILSVRC2012_val_{(7 * i) % 24 + 1:08d}.JPEG"))
    return root


@pytest.fixture
def images(named: Path) -> ImageSet:
    return open_split(named, "val")


def test_the_listed_are_left_out(images: ImageSet, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("3\n24\n1\n")
    kept = without_blacklisted(images, tmp_path / "list.txt")
    assert sorted(image_numbers(kept)) == [n for n in range(1, 25) if n not in (1, 3, 24)]
    for i, number in enumerate(image_numbers(kept)):
        place = image_numbers(images).index(number)
        assert kept.name(i) == images.name(place) and kept.labels[i] == images.labels[place]


def test_images_that_are_excluded_anyway_may_be_listed(named: Path, images: ImageSet, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("3\n24\n")
    place = image_numbers(images).index(24)
    (tmp_path / "exclusions.txt").write_text(images.name(place).removeprefix(f"{named}/") + "\n")
    rest = open_split(named, "val", exclusions=tmp_path / "exclusions.txt")
    kept = without_blacklisted(rest, tmp_path / "list.txt")
    assert sorted(image_numbers(kept)) == [n for n in range(1, 24) if n != 3]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0\n", "lists image 0"),
        ("25\n", "lists image 25"),
        ("", "is empty"),
        ("1\nn01440764\n", "list.txt:2"),
        ("\xff", "no number"),
    ],
)
def test_lists_that_do_not_fit(images: ImageSet, tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "list.txt").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=words):
        without_blacklisted(images, tmp_path / "list.txt")


def test_images_of_other_names(data: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("1\n")
    with pytest.raises(DataError, match=r"0.jpg is not named like ILSVRC2012_val"):
        without_blacklisted(open_split(data, "val"), tmp_path / "list.txt")


def test_real_labels(images: ImageSet, tmp_path: Path) -> None:
    sets = [[n % 6] if n % 4 else [] for n in range(24)]
    sets[1] = [0, 1, 2, 3, 4, 5]
    (tmp_path / "real.json").write_text(json.dumps(sets))
    predicted = torch.zeros(24, dtype=torch.long)
    found = real_errors(images, predicted, tmp_path / "real.json")
    labelled = [one for one in sets if one]
    assert found == {
        "real_top1_error": pytest.approx(100 * sum(0 not in one for one in labelled) / len(labelled)),
        "real_num_images": 18,
    }
    for content, words in (
        ([[0]] * 23, "labels for 23"),
        ([[6]] * 24, "names class 6"),
        ({"a": 1}, "no lists"),
        ([[]] * 24, "no labels"),
    ):
        (tmp_path / "real.json").write_text(json.dumps(content))
        with pytest.raises(DataError, match=words):
            real_errors(images, predicted, tmp_path / "real.json")


def test_the_command(run: Run, named: Path, tmp_path: Path) -> None:
    words = ["evaluate", str(run.path), "--data", str(named), "--subset", "non-blacklisted", "--precision", "fp32"]
    missing = CliRunner().invoke(app, words)
    assert missing.exit_code == 3 and "--blacklist FILE" in missing.stderr
    kit = named / "ILSVRC2014_devkit" / "data" / "ILSVRC2014_clsloc_validation_blacklist.txt"
    kit.parent.mkdir(parents=True)
    kit.write_text("5\n6\n")
    assert find_blacklist(named) == kit
    (tmp_path / "real.json").write_text(json.dumps([[n % 6] for n in range(24)]))
    answer = CliRunner().invoke(app, [*words, "--real-labels", str(tmp_path / "real.json")])
    assert answer.exit_code == 0, answer.output
    assert "22 of " in answer.stdout and "ReaL top-1 error" in answer.stdout
    told = json.loads((run.evaluations / "step-00000010_ema_single_non-blacklisted.json").read_text())
    assert (told["subset"], told["num_images"], told["real_num_images"]) == ("non-blacklisted", 22, 22)
    assert len(CLASSES) == len(told["classes"])
