"""A training with progressive resizing: resumed before, at and after a boundary it ends as one that was never stopped."""

from pathlib import Path

import pytest

from inceptionctl.errors import RecipeError
from inceptionctl.recipe import load_recipe
from tests.commands import TINY, inceptionctl, refused, rows, sets

# 13 images in batches of 8: steps begin in epochs 0, 0, 1, 1, 2, 3, so the size changes with steps 2 and 4.
SETTINGS = sets(
    *TINY,
    "train.progressive_resizing={1: 96, 2: 80}",
    "train.epochs=3.5",
    "model.num_classes=3",
    "checkpoint.every_epochs=null",
    "checkpoint.every_steps=1",
    "checkpoint.keep_last=9",
    "schedule.base_lr=0.01",
)
FILES = ("model", "ema", "optimizer")


def run(root: Path, folder: Path, *settings: str) -> str:
    command = ("train", "inception_v4", *SETTINGS, *sets(f"data.root={root}", *settings))
    done = inceptionctl(*command, "--cpu-ranks", "1", "--output", "run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_a_run_resumed_around_the_boundaries_ends_as_one_that_never_stopped(root: Path, tmp_path: Path) -> None:
    (whole := tmp_path / "whole").mkdir()
    (cut := tmp_path / "cut").mkdir()
    told = run(root, whole)
    assert "images of 75 px, from epoch 1 on of 96 px, from epoch 2 on of 80 px; validation images of 75 px" in told
    assert "epoch 1.23: trains on images of 96 px from here on" in told
    assert "epoch 2.46: trains on images of 80 px from here on" in told
    for stop in (1, 2, 3):  # before, at and after the first
        run(root, cut, f"train.max_steps={stop}")
    run(root, cut)
    for name in FILES:
        ours, theirs = (folder / f"run/checkpoints/step-00000006/{name}.safetensors" for folder in (cut, whole))
        assert ours.read_bytes() == theirs.read_bytes(), name
    assert [row["loss"] for row in rows(cut / "run")] == [row["loss"] for row in rows(whole / "run")]
    # Another schedule would be another training.
    changed = sets(f"data.root={root}", "train.progressive_resizing={1: 96}", "train.epochs=9")
    refused(
        inceptionctl("train", "inception_v4", *SETTINGS, *changed, "--output", "run", "--cpu-ranks", "1", cwd=whole),
        5,
        "train.progressive_resizing.2",
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("train.progressive_resizing={3: 64}",), "from epoch 3: input_px 64 is too small for inception_v4: at least 75"),
        (("train.progressive_resizing.3=64",), "from epoch 3: input_px 64 is too small for inception_v4: at least 75"),
        (("train.progressive_resizing={soon: 96}",), "train.progressive_resizing"),
        (("train.progressive_resizing={1: large}",), "train.progressive_resizing.1"),
        (("train.progressive_resizing=96",), "train.progressive_resizing"),
        (("train.progressive_resizing={1: 128}", "model.name=inception_v3"), "auxiliary head"),
    ],
)
def test_sizes_that_a_network_does_not_take_are_refused(settings: tuple[str, ...], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("inception_v4", settings)
    (problem,) = caught.value.problems
    assert message in problem.message and problem.where.startswith("--set")


def test_a_dry_run_tells_the_schedule_and_null_takes_one_back(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: inception_v4\ntrain:\n  progressive_resizing:\n    0: 160\n    40: 224\n")
    told = inceptionctl("train", "mine.yaml", "--dry-run", cwd=tmp_path)
    assert "of 160 px, from epoch 40 on of 224 px; validation images of 299 px" in " ".join(told.stdout.split())
    assert load_recipe(str(tmp_path / "mine.yaml"), ["train.progressive_resizing=null"]) == load_recipe("inception_v4")
