"""Trainings on classes of unequal size, by the command."""

import json
from pathlib import Path

import pytest
import yaml

from inceptionctl.run import Run
from tests.commands import TINY, inceptionctl, refused, sets
from tests.data.conftest import fill

COUNTS = {"cats": 12, "dogs": 4, "owls": 2}
RECIPE = {
    "model": {"name": "resnet_18", "num_classes": "auto"},
    "data": {"root": "photos"},
    "train": {"epochs": 1, "max_steps": 1},
    "schedule": {"name": "constant", "base_lr": 0.01},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with photos/ and mine.yaml."""
    place = tmp_path_factory.mktemp("place")
    for seed, (name, count) in enumerate(COUNTS.items()):
        fill(place / "photos" / "train" / name, count, seed=seed)
        fill(place / "photos" / "val" / name, 2, seed=10 + seed)
    (place / "mine.yaml").write_text(yaml.safe_dump(RECIPE))
    return place


def rows(run: Path, kind: str) -> list[dict]:
    return [row for line in Run(run).metrics_file.read_text().splitlines() if (row := json.loads(line))["kind"] == kind]


def trained(place: Path, name: str, *settings: str, ranks: int = 1) -> str:
    """What the training of place/NAME said."""
    words = ("train", "mine.yaml", *sets(*TINY, *settings), "--cpu-ranks", str(ranks), "--output", name)
    done = inceptionctl(*words, cwd=place)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_weights_are_in_the_reported_loss_and_not_in_the_validation(place: Path) -> None:
    trained(place, "ones", "train.class_weights=[1,1,1]", "schedule.base_lr=1e-9")
    said = trained(place, "threes", "train.class_weights=[3,3,3.0]", "schedule.base_lr=1e-9")
    assert "class weights: from 3 (cats) to 3 (owls)" in said
    ones, threes = (rows(place / name, "train")[0]["loss"] for name in ("ones", "threes"))
    assert threes == pytest.approx(3 * ones, rel=1e-5)
    ones, threes = (rows(place / name, "evaluate")[0]["loss"] for name in ("ones", "threes"))
    assert threes == pytest.approx(ones, rel=1e-3)


def test_both_ways_of_balancing_are_named_take_effect_and_are_kept_on_resume(place: Path) -> None:
    assert "class weights balanced: from 0.5 (cats) to 3 (owls)" in trained(place, "weighted", "train.class_weights=balanced")
    said = trained(place, "sampled", "train.class_weights=balanced", "data.sampling=balanced", ranks=2)
    assert "sampling balanced: an epoch takes each image 0.5 times of cats and 3 times of owls in the mean" in said
    assert "warning: data.sampling and train.class_weights both balance the classes" in said
    weighted, sampled = (rows(place / name, "train")[0]["loss"] for name in ("weighted", "sampled"))
    assert sampled != pytest.approx(weighted, rel=0.01)  # the first step's: the same network on other images
    words = ("train", "mine.yaml", *sets(*TINY, "train.max_steps=2"), "--output", "sampled")
    refused(inceptionctl(*words, cwd=place), 5, "data.sampling", "train.class_weights", "use its own recipe")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("[1,2]", "train.class_weights has 2 numbers, the network 3 classes"),
        ("balance", "neither `balanced` nor a list of positive numbers"),
        ("[1,0,1]", "neither `balanced` nor a list of positive numbers"),
        ("[1,.inf,1]", "neither `balanced` nor a list of positive numbers"),
    ],
)
def test_weights_that_make_no_sense_are_refused(place: Path, value: str, words: str) -> None:
    done = inceptionctl("train", "mine.yaml", *sets(f"train.class_weights={value}"), "--output", "refused", cwd=place)
    refused(done, 2, words, "train.class_weights")
