"""Early stopping: when it is decided, and real runs that end by it, go on and are evaluated."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from inceptionctl.recipe.load import recipe_from_dict
from inceptionctl.run import Run
from inceptionctl.train import checkpoint_files as files
from inceptionctl.train.checkpoint import Progress, progress_of
from inceptionctl.train.early_stopping import note_validation
from tests.commands import TINY, inceptionctl, refused, sets
from tests.data.conftest import fill


def job_of(progress: Progress, subset: str = "all", **stop_when: Any) -> Any:
    recipe = recipe_from_dict({"train": {"stop_when": stop_when}, "evaluate": {"subset": subset}}, "here")
    health = SimpleNamespace(suspects=False)
    return SimpleNamespace(recipe=recipe, progress=progress, steps_per_epoch=10.0, health=health)


def stops_at(values: list[float], progress: Progress | None = None, **stop_when: Any) -> int | None:
    """The number of the validation, one an epoch from 1 on, after which a training stops."""
    progress = progress or Progress(total_steps=1000)
    job = job_of(progress, **stop_when)
    for number, value in enumerate(values, start=1 + progress.step // 10):
        progress.step = 10 * number
        note_validation(job, {"top1_error": value, "loss": value / 10})
        if progress.stopped_early:
            return number
    return None


def test_it_stops_when_there_was_no_new_minimum_for_so_long() -> None:
    assert stops_at([50.0, 40.0, 41.0, 40.0, 42.0, 39.0], patience_epochs=3) == 5
    assert stops_at([50.0, 40.0, 41.0, 39.0, 42.0, 38.0], patience_epochs=3) is None
    assert stops_at([50.0, 40.0, 41.0], patience_epochs=1, metric="loss") == 3
    assert stops_at([50.0] * 20) is None  # off by default


def test_what_is_no_number_is_never_a_minimum() -> None:
    assert stops_at([math.nan, math.nan, 50.0, math.nan, math.nan], patience_epochs=2) == 3 + 2
    assert stops_at([math.nan] * 4, patience_epochs=2) == 3


def test_the_count_goes_on_from_a_checkpoint_and_begins_anew_for_another_metric() -> None:
    kept = Progress(step=20, total_steps=1000, lowest={"metric": "top1_error", "subset": "all", "value": 40.0, "step": 10})
    assert stops_at([45.0, 45.0, 45.0], progress=Progress(**vars(kept)), patience_epochs=3) == 4
    assert stops_at([45.0, 45.0, 45.0, 45.0], progress=Progress(**vars(kept)), patience_epochs=3, metric="loss") == 6
    other = Progress(**vars(kept))
    assert stops_at([45.0] * 4, progress=other, subset="non-blacklisted", patience_epochs=3) == 6


def test_the_last_step_and_a_network_that_looks_dead_are_no_early_stop() -> None:
    assert stops_at([50.0, 50.0], progress=Progress(total_steps=20), patience_epochs=1) is None
    progress = Progress(step=90, total_steps=1000, lowest={"metric": "loss", "subset": "all", "value": 1.0, "step": 10})
    job = job_of(progress, metric="loss", patience_epochs=2)
    job.health.suspects = True
    note_validation(job, {"top1_error": 1.0, "loss": 2.0})
    assert not progress.stopped_early


RECIPE = {
    # A network that stays as it is: no validation is better than the first.
    "model": {"name": "resnet_18", "num_classes": 2, "batch_norm_momentum": 1e-9},
    "data": {"root": "photos"},
    "train": {"epochs": 6, "stop_when": {"metric": "top1_error", "patience_epochs": 2}},
    "schedule": {"name": "constant", "base_lr": 1e-12},
}


def test_a_run_stops_early_and_is_finished(tmp_path: Path) -> None:
    for seed, name in enumerate(("cats", "dogs")):
        fill(tmp_path / "photos" / "train" / name, 9, seed=seed)
        fill(tmp_path / "photos" / "val" / name, 2, seed=10 + seed)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(RECIPE))

    def trained(*settings: str, ranks: int = 1) -> tuple[str, Progress]:
        words = ("train", "mine.yaml", *sets(*TINY, *settings), "--cpu-ranks", str(ranks), "--output", "run")
        done = inceptionctl(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        latest = files.pointed(tmp_path / "run" / "checkpoints", "latest")
        assert latest is not None
        return done.stderr, progress_of(latest)

    # 2.25 steps an epoch: validations after steps 3, 5, 7, 9, 12 and 14.
    said, progress = trained("train.max_steps=5")
    assert progress.step == 5 and not progress.stopped_early and progress.lowest["step"] == 3
    said, progress = trained("checkpoint.every_epochs=null", ranks=2)
    assert "stops early at epoch 3.11: no top1_error below" in said and "finished: 7 steps" in said
    assert (progress.step, progress.total_steps, progress.lowest["step"]) == (7, 14, 3) and progress.stopped_early
    shown = inceptionctl("runs", "show", "run", "--json", cwd=tmp_path)
    assert json.loads(shown.stdout)["state"] == "finished"
    assert "finished: nothing to train" in trained("checkpoint.every_epochs=null")[0]
    evaluated = inceptionctl("evaluate", "run", "--json", cwd=tmp_path)
    assert json.loads(evaluated.stdout)["step"] == 3, evaluated.stderr
    said, progress = trained("train.stop_when.patience_epochs=3", "checkpoint.keep_best=false")
    assert "resuming from" in said and "warning: train.stop_when goes past the best validation" in said
    assert (progress.step, progress.lowest["step"]) == (9, 3)
    assert [row["step"] for row in validations(tmp_path / "run")] == [3, 5, 7, 9]


def validations(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in Run(run).metrics_file.read_text().splitlines()]
    return [row for row in rows if row["kind"] == "evaluate"]


def test_it_needs_validations(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**RECIPE, "evaluate": {"every_epochs": None}}))
    done = inceptionctl("recipes", "check", "mine.yaml", "--no-data", cwd=tmp_path)
    refused(
        done, 2, "train.stop_when.patience_epochs cannot be used with evaluate.every_epochs null", "set evaluate.every_epochs"
    )


@pytest.mark.parametrize("patience", ["0", "-1"])
def test_no_patience_at_all_is_refused(tmp_path: Path, patience: str) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(RECIPE))
    done = inceptionctl(
        "recipes", "check", "mine.yaml", "--no-data", *sets(f"train.stop_when.patience_epochs={patience}"), cwd=tmp_path
    )
    assert done.returncode == 2 and "train.stop_when.patience_epochs" in done.stderr, done.stderr
