"""A folder of photographs by class, with nothing else said: divided, counted, trained, resumed and evaluated."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from inceptionctl.recipe.load import load_recipe
from inceptionctl.recipe.model_section import AUTO_CLASSES
from inceptionctl.run import Run, create_run
from tests.commands import TINY, inceptionctl, refused, sets
from tests.data.conftest import fill

RECIPE = {
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
    # As a submitted job finds it that was submitted where the data cannot be seen.
    create_run(place / "run", load_recipe(str(place / "mine.yaml"), TINY))
    assert Run(place / "run").recipe().model.num_classes == AUTO_CLASSES
    words = ("train", "mine.yaml", *sets(*TINY), "--cpu-ranks", "2", "--output", "run")
    done = inceptionctl(*words, cwd=place)
    assert done.returncode == 0, done.stderr
    assert "3 classes" in done.stderr
    recipe = Run(place / "run").recipe()
    assert recipe.model.num_classes == 3 and recipe.data.val_fraction == 0.3
    done = inceptionctl(*words, *sets("train.max_steps=4"), cwd=place)
    assert done.returncode == 0 and "resuming" in done.stderr, done.stderr
    more = inceptionctl(*words, *sets("train.max_steps=4", "model.num_classes=auto"), cwd=place)
    assert more.returncode == 0 and "nothing to train" in more.stderr, more.stderr
    refused(inceptionctl(*words, *sets("model.width=0.25"), cwd=place), 5, "model.width")
    done = inceptionctl("evaluate", "run", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    assert 5 < json.loads(done.stdout)["num_images"] < 25


def test_classes_are_counted_where_the_data_are_and_else_imagenets(place: Path) -> None:
    words = ("train", "mine.yaml", *sets(*TINY), "--dry-run", "--json")
    for settings, options, told in (
        ((), (), "3 classes"),
        (("model.num_classes=auto",), (), "3 classes"),
        ((), ("--no-data",), "1000 classes"),
        (("model.num_classes=5",), ("--no-data",), "5 classes"),
    ):
        done = inceptionctl(*words, *sets(*settings), *options, cwd=place)
        assert done.returncode == 0 and told in json.loads(done.stdout)["network"], done.stderr
        assert ("1,000 classes are assumed" in done.stderr) == (told == "1000 classes")


def test_plan_counts_too(place: Path) -> None:
    words = ("plan", "mine.yaml", *sets(*TINY), "--images-per-second", "100", "--json")
    counted = inceptionctl(*words, cwd=place)
    assert counted.returncode == 0 and "assumed" not in counted.stderr, counted.stderr
    assumed = inceptionctl(*words, *sets("data.root=elsewhere"), cwd=place)
    assert assumed.returncode == 0 and "1,000 classes are assumed" in assumed.stderr, assumed.stderr
    numbers = [json.loads(done.stdout)["gradient_bytes"] for done in (counted, assumed)]
    features = round(1536 * 0.125)
    assert numbers[1] - numbers[0] == 4 * (1000 - 3) * (features + 1)


def test_what_else_is_wrong_is_told_beside_missing_data(place: Path) -> None:
    wrong = sets(*TINY, "model.freeze=[nose]", "data.root=absent")
    for words in (("recipes", "check", "mine.yaml"), ("train", "mine.yaml")):
        refused(inceptionctl(*words, *wrong, cwd=place), 2, "no block 'nose'", "absent does not exist")


def test_wrong_numbers_are_refused_as_before(place: Path) -> None:
    for wrong in ("0", "1", "many"):
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
