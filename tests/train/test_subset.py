"""Validation while training on ImageNet's images less the blacklisted ones: which are counted, and what compares with what."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from pyarrow import parquet
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from inceptionctl.data.sources.exclusions import NUMBER
from inceptionctl.train.checkpoint import Progress
from tests.commands import TINY, inceptionctl, refused, rows, sets
from tests.data.conftest import two_classes

SETTINGS = sets(
    *TINY,
    "model.num_classes=2",
    "train.epochs=100",
    "checkpoint.every_epochs=null",
    "evaluate.every_epochs=null",
    "schedule.base_lr=0.01",
)
BLACKLIST = "ILSVRC2014_clsloc_validation_blacklist.txt"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes whose 7 validation images are named as ImageNet's."""
    root = two_classes(tmp_path_factory.mktemp("data"))
    for number, file in enumerate(sorted((root / "val").rglob("*.*")), start=1):
        file.rename(file.with_name(f"ILSVRC2012_val_{number:08d}{file.suffix}"))
    return root


def train(data: Path, folder: Path, name: str, steps: int, *settings: str):
    every = sets(f"data.root={data}", f"train.max_steps={steps}", *settings)
    return inceptionctl("train", "inception_v4", *SETTINGS, *every, "--cpu-ranks", "2", "--output", name, cwd=folder)


def evaluated(run: Path, *options: str) -> dict[str, float]:
    result = inceptionctl("evaluate", run, "--precision", "fp32", "--json", *options)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.slow
def test_rows_say_what_they_are_of_and_the_best_is_one_of_its_subset(data: Path, tmp_path: Path) -> None:
    """The blacklist is of the images that the network takes for the other class, so that none but the subset has no error."""
    assert train(data, tmp_path, "all", 4).returncode == 0
    [row] = rows(tmp_path / "all", "evaluate")
    assert (row["subset"], row["num_images"]) == ("all", 7)
    file = tmp_path / "all.json"
    evaluated(tmp_path / "all", "--output", str(file))
    table = parquet.read_table(file.with_suffix(".parquet")).to_pylist()
    wrong = [int(NUMBER.search(one["image"])[1]) for one in table if one["class"] != one["predicted"]]
    assert 0 < len(wrong) < 7
    blacklist = tmp_path / "list.txt"
    blacklist.write_text("".join(f"{number}\n" for number in wrong))

    subset = ("evaluate.subset=non-blacklisted", f"evaluate.blacklist={blacklist}")
    result = train(data, tmp_path, "run", 4, *subset)
    assert result.returncode == 0, result.stderr
    run, kept = tmp_path / "run", 7 - len(wrong)
    assert f"and {kept} non-blacklisted validation images" in result.stderr
    assert f"({kept} non-blacklisted images, EMA weights" in result.stderr
    [row] = rows(run, "evaluate")
    assert (row["subset"], row["num_images"], row["top1_error"]) == ("non-blacklisted", kept, 0.0)
    same = evaluated(run, "--subset", "non-blacklisted")  # the list is the recipe's
    assert (same["num_images"], same["top1_error"]) == (kept, 0.0)
    assert row["loss"] == pytest.approx(same["loss"], rel=1e-5) != evaluated(run)["loss"]

    result = train(data, tmp_path, "run", 5)
    assert result.returncode == 0, result.stderr
    assert "validates on other images than before (all)" in result.stderr
    last = rows(run, "evaluate")[-1]
    assert (last["step"], last["subset"], last["num_images"]) == (5, "all", 7) and last["top1_error"] > 0.0
    progress = json.loads((run / "checkpoints" / "step-00000005" / "progress.json").read_text())
    assert (progress["best"]["step"], progress["best"]["subset"]) == (5, "all")
    assert (run / "checkpoints" / "best").read_text() == "step-00000005\n"
    shown = json.loads(inceptionctl("runs", "show", run, "--json").stdout)
    assert (shown["best_top1_error"], shown["validated_on"]) == (last["top1_error"], "all")
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    for tag, step in (("evaluate_non-blacklisted/top1_error", 4), ("evaluate/top1_error", 5)):
        assert [event.step for event in events.Scalars(tag)] == [step]


def test_a_validation_of_other_images_is_no_best_to_compare_with() -> None:
    old, new = {"step": 1, "loss": 0.5}, {"step": 1, "loss": 0.5, "subset": "non-blacklisted"}
    assert Progress(best=old).best_on("all") == old and Progress(best=new).best_on("non-blacklisted") == new
    assert Progress(best=old).best_on("non-blacklisted") == {} == Progress(best=new).best_on("all")


def test_what_has_no_such_subset_is_refused_before_anything_is_made(data: Path, tmp_path: Path) -> None:
    subset = "evaluate.subset=non-blacklisted"
    refused(train(data, tmp_path, "run", 4, subset), 3, "ILSVRC20??_clsloc_validation_blacklist.txt", "evaluate.blacklist")
    other = Path(shutil.copytree(data, tmp_path / "other"))
    (other / BLACKLIST).write_text("3\n8\n")
    refused(train(other, tmp_path, "run", 4, subset), 3, "lists image 8, which is not among the 7")
    (other / BLACKLIST).write_text("3\n7\n")
    file = next((other / "val").rglob("*.*g"))
    file.rename(file.with_name("photo.png"))
    refused(train(other, tmp_path, "run", 4, subset), 3, "photo.png is not named like ILSVRC2012_val_00000001.JPEG")
    assert not (tmp_path / "run").exists()
