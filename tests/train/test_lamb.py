"""LAMB comes from timm: a real run with it, stopped and resumed, and the words where timm is not to be had."""

import importlib.util
from pathlib import Path

import pytest

from tests.commands import TINY, inceptionctl, refused, rows, sets

WITH_TIMM = str(Path(__file__).resolve().parents[1] / "with_timm")
SETTINGS = sets(*TINY, "model.num_classes=3", "optim.name=lamb", "schedule.base_lr=0.01", "checkpoint.every_steps=2")


@pytest.mark.slow
def test_a_run_that_stops_and_goes_on_ends_as_one_that_did_not(root: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed: scripts/environment does it")
    for output, steps in (("whole", 4), ("cut", 2), ("cut", 4)):
        settings = [*SETTINGS, *sets(f"data.root={root}", f"train.max_steps={steps}")]
        result = inceptionctl(
            "train", "inception_v4", *settings, "--cpu-ranks", "1", "--output", output, cwd=tmp_path, PYTHONPATH=WITH_TIMM
        )
        assert result.returncode == 0, result.stderr
    assert [row["step"] for row in rows(tmp_path / "cut")] == [1, 2, 3, 4]
    for name in ("model", "ema", "optimizer"):
        whole, cut = (tmp_path / run / f"checkpoints/step-00000004/{name}.safetensors" for run in ("whole", "cut"))
        assert whole.read_bytes() == cut.read_bytes(), name
    assert rows(tmp_path / "whole")[-1]["loss"] != rows(tmp_path / "whole")[0]["loss"]


def test_without_timm_the_error_says_how_to_get_it(root: Path, tmp_path: Path) -> None:
    (tmp_path / "timm.py").write_text("raise ImportError('No module named timm')\n")
    settings = [*SETTINGS, *sets(f"data.root={root}")]
    result = inceptionctl("train", "inception_v4", *settings, "--cpu-ranks", "1", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    refused(result, 4, "optim.name is lamb", "pip install 'inceptionctl[timm]'")
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())
