"""A folder of photographs by class, with nothing else said: divided, counted, trained, resumed and evaluated."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from inceptionctl.run import Run
from tests.commands import TINY, inceptionctl, refused, sets
from tests.data.conftest import fill

RECIPE = {
    "model": {"num_classes": "auto"},
    "data": {"root": "photos", "val_fraction": 0.3},
    "train": {"epochs": 1, "max_steps": 2},
    "schedule": {"name": "constant", "base_lr": 0.01},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with photos/ and mine.yaml."""
    place = tmp_path_factory.mktemp("place")
    for seed, name in enumerate(("cats", "dogs", "owls")):
        fill(place / "photos" / name, 16, seed=seed)
    (place / "mine.yaml").write_text(yaml.safe_dump(RECIPE))
    return place


def test_train_resume_and_evaluate(place: Path) -> None:
    words = ("train", "mine.yaml", *sets(*TINY), "--cpu-ranks", "2", "--output", "run")
    done = inceptionctl(*words, cwd=place)
    assert done.returncode == 0, done.stderr
    assert "3 classes" in done.stderr
    recipe = Run(place / "run").recipe()
    assert recipe.model.num_classes == 3 and recipe.data.val_fraction == 0.3
    done = inceptionctl(*words, *sets("train.max_steps=4"), cwd=place)
    assert done.returncode == 0 and "resuming" in done.stderr, done.stderr
    done = inceptionctl("evaluate", "run", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    assert 5 < json.loads(done.stdout)["num_images"] < 25


def test_a_dry_run_counts_and_cannot_without_data(place: Path) -> None:
    words = ("train", "mine.yaml", *sets(*TINY), "--dry-run", "--json")
    done = inceptionctl(*words, cwd=place)
    assert done.returncode == 0 and "3 classes" in done.stdout, done.stderr
    refused(inceptionctl(*words, "--no-data", cwd=place), 2, "model.num_classes is auto", "model.num_classes=N")


def test_wrong_numbers_are_refused_as_before(place: Path) -> None:
    for wrong in ("1", "many"):
        done = inceptionctl("train", "mine.yaml", *sets(f"model.num_classes={wrong}"), cwd=place)
        assert done.returncode == 2 and "model.num_classes" in done.stderr and "Traceback" not in done.stderr
    refused(inceptionctl("train", "mine.yaml", *sets("model.num_classes=4"), cwd=place), 3, "3 classes", "model.num_classes=3")


def test_the_check_shows_both_sides(place: Path) -> None:
    done = inceptionctl("data", "check", "photos", *sets("data.val_fraction=0.3"), "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    train, val = json.loads(done.stdout)["splits"]
    assert train["num_images"] + val["num_images"] == 48 and val["num_images"] > 5
    both = [train["class_counts"][name] + val["class_counts"][name] for name in ("cats", "dogs", "owls")]
    assert both == [16, 16, 16]


def test_a_class_without_validation_images_is_named(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "photos", tmp_path / "photos")
    (tmp_path / "photos/rare").mkdir()
    shutil.copy(place / "photos/cats/004.jpg", tmp_path / "photos/rare")
    small = ("data.val_fraction=0.05", "train.max_steps=1", "train.micro_batch_size=8")
    done = inceptionctl("train", place / "mine.yaml", *sets(*TINY, *small), "--cpu-ranks", "1", "--output", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "rare" in done.stderr and "no validation images" in done.stderr
