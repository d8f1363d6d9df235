"""Every bundled recipe is a test: it loads, dry-runs, and, shrunk by --set, trains two steps."""

import json
from pathlib import Path

import pytest

from inceptionctl.recipe import bundled_recipes
from tests.commands import TINY, inceptionctl, rows, sets


@pytest.mark.parametrize("name", bundled_recipes())
def test_dry_run_prints_the_arithmetic(name: str, tmp_path: Path) -> None:
    result = inceptionctl("train", name, "--dry-run", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    plan = json.loads(result.stdout)
    assert plan["ranks"] * plan["micro_batch_size"] * plan["accumulation"] == plan["global_batch_size"]
    assert plan["deepspeed"]["train_batch_size"] == plan["global_batch_size"]
    assert list(tmp_path.iterdir()) == []
    text = inceptionctl("train", name, "--dry-run", cwd=tmp_path)
    for words in ("parameters", "multiply adds", "global batch", "learning rate", "deepspeed", "disk needed"):
        assert words in text.stdout


def test_the_papers_training_needs_what_the_paper_says(tmp_path: Path) -> None:
    plan = json.loads(inceptionctl("train", "inception_v4", "--gpus", "20", "--dry-run", "--json", cwd=tmp_path).stdout)
    assert plan["parameters"] == 42_679_816
    assert plan["batch"] == "20 ranks x 32 micro batch x 1 accumulation = 640 global batch"
    assert plan["steps"] == 320_292 and "assumed" in plan["train_images_source"]
    assert plan["learning_rate"].startswith("0.045 x 0.94 every 2 epochs")
    assert plan["deepspeed"]["gradient_clipping"] == 2.0


@pytest.mark.slow
@pytest.mark.parametrize("name", bundled_recipes())
def test_trains_two_steps(name: str, root: Path, tmp_path: Path) -> None:
    settings = sets(*TINY, "model.num_classes=3", f"data.root={root}", "train.max_steps=2")
    result = inceptionctl("train", name, *settings, "--cpu-ranks", "1", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (run,) = (tmp_path / "runs").iterdir()
    assert [row["step"] for row in rows(run)] == [1, 2]
    assert (run / "checkpoints" / "latest").read_text() == "step-00000002\n"
    assert f"next: inceptionctl evaluate runs/{run.name}" in result.stderr
