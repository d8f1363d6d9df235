"""Runs and recipes of earlier versions still open: a run of 2026-11, made at commit 0a8d878 by

    inceptionctl train quickstart --cpu-ranks 1 --output run --set data.root=DIGITS (tests/images/sign_digits) --set model.name=resnet_18
        --set model.width=0.04 --set model.num_classes=10 --set model.input_px=64 --set train.global_batch_size=8 --set train.max_steps=4
        --set train.micro_batch_size=4 --set train.precision=fp32 --set train.log_every_steps=1 --set checkpoint.every_steps=2
        --set data.augment.vertical_flip=0

with its second checkpoint alone. That version's own figures are what this one is compared with; they are rounded otherwise by other processors.
"""

import json
import shutil
from pathlib import Path

import pytest

from tests.commands import inceptionctl, rows, sets

KEPT = Path(__file__).parent / "kept" / "run_of_2026_11"
LOSS_OF_THE_AVERAGES = 2.702817916870117
LOSSES = {5: 3.7066473960876465, 6: 3.1330833435058594}  # of the steps after the checkpoint, on the same images


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(KEPT, tmp_path / "run"))


def test_it_is_shown_and_its_recipe_holds(run: Path) -> None:
    shown = inceptionctl("runs", "show", run, "--json")
    assert shown.returncode == 0 and json.loads(shown.stdout)["state"] == "finished", shown.stderr
    checked = inceptionctl("recipes", "check", run / "recipe.yaml", "--no-data")
    assert checked.returncode == 0, checked.stderr
    verified = inceptionctl("checkpoints", "verify", run)
    assert verified.returncode == 0, verified.stderr


def test_it_is_evaluated_and_exported_as_it_was(run: Path, photographs: Path) -> None:
    done = inceptionctl("evaluate", run, "--data", photographs, "--precision", "fp32", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["step"] == 4 and result["loss"] == pytest.approx(LOSS_OF_THE_AVERAGES, rel=1e-4)
    exported = inceptionctl("export", run, "--data", photographs, "--format", "safetensors")
    assert exported.returncode == 0 and (run / "export" / "model.safetensors").is_file(), exported.stderr


def test_it_is_resumed_at_the_next_sample(run: Path, photographs: Path) -> None:
    more = sets(f"data.root={photographs}", "train.max_steps=6")
    done = inceptionctl("train", run / "recipe.yaml", *more, "--cpu-ranks", "1", "--output", run)
    assert done.returncode == 0, done.stderr
    assert {row["step"]: row["loss"] for row in rows(run) if row["step"] > 4} == pytest.approx(LOSSES, rel=1e-4)


def test_a_note_of_bad_images_that_cannot_be_read_is_refused_and_nothing_is_changed(run: Path, photographs: Path) -> None:
    (run / "bad_images.json").write_text("{", encoding="utf-8")
    before = {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()}
    more = sets(f"data.root={photographs}", "train.max_steps=6")
    done = inceptionctl("train", run / "recipe.yaml", *more, "--cpu-ranks", "1", "--output", run)
    assert done.returncode == 5 and "bad_images.json" in done.stderr, done.stderr
    assert {name: (run / name).read_bytes() for name in before} == before
