"""Every bundled recipe is a test: it loads, dry-runs, and, shrunk by --set, trains two steps."""

import json
from pathlib import Path

import pytest
import torch

from inceptionctl.errors import EnvironmentFault
from inceptionctl.recipe import bundled_recipes
from inceptionctl.recipe.load import load_recipe
from inceptionctl.train.inputs import loader_settings, train_transforms
from tests.commands import TINY, inceptionctl, rows, sets

# Where timm is not importable with this torch alone: its LAMB.
WITH_TIMM = str(Path(__file__).resolve().parents[1] / "with_timm")
NEEDS_TIMM = {"resnet_152_modern"}


def variables(name: str) -> dict[str, str]:
    """What a recipe's command is started with."""
    return {"PYTHONPATH": WITH_TIMM} if name in NEEDS_TIMM else {}


@pytest.mark.slow
@pytest.mark.parametrize("name", bundled_recipes())
def test_dry_run_prints_the_arithmetic(name: str, tmp_path: Path) -> None:
    # Published weights would be looked up; tests/stages/test_suggest.py trains this recipe.
    alone = sets("model.init_from=null") if name == "fine_tune" else []
    result = inceptionctl("train", name, *alone, "--dry-run", "--json", cwd=tmp_path, **variables(name))
    assert result.returncode == 0, result.stderr
    plan = json.loads(result.stdout)
    assert plan["ranks"] * plan["micro_batch_size"] * plan["accumulation"] == plan["global_batch_size"]
    assert plan["deepspeed"]["train_batch_size"] == plan["global_batch_size"]
    assert list(tmp_path.iterdir()) == []


def test_dry_run_in_words(tmp_path: Path) -> None:
    text = inceptionctl("train", "inception_v4", "--dry-run", cwd=tmp_path)
    for words in ("parameters", "multiply adds", "global batch", "learning rate", "deepspeed", "disk needed"):
        assert words in text.stdout


def test_the_papers_training_needs_what_the_paper_says(tmp_path: Path) -> None:
    plan = json.loads(inceptionctl("train", "inception_v4", "--gpus", "20", "--dry-run", "--json", cwd=tmp_path).stdout)
    assert plan["parameters"] == 42_679_816
    assert plan["batch"] == "20 ranks x 32 micro batch x 1 accumulation = 640 global batch"
    assert plan["steps"] == 320_292 and "assumed" in plan["train_images_source"]
    assert plan["learning_rate"].startswith("0.045 x 0.94 every 2 epochs")
    assert plan["clipping"] == "each tensor's gradient at 0.2 x the norm of its weights"
    assert plan["deepspeed"]["gradient_clipping"] == 0.0, "clipped once, by our own engine"


# What the smallest network of TINY does not go with: the auxiliary head needs pixels, and there is no run to start from.
FITTING = {
    "inception_v3": ("model.input_px=107",),
    "inception_v3_modern": ("model.input_px=107",),
    "inception_resnet_v2_tf_slim": ("model.input_px=107",),
    "elpv_fine_tune": ("model.init_from=null",),
    "fine_tune": ("model.init_from=null", "data.val_fraction=null"),
}
FULL_DISTORTION = "inception_v4_full_distortion"  # trains below, with more


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(bundled_recipes()) - {FULL_DISTORTION}))
def test_trains_two_steps(name: str, root: Path, tmp_path: Path) -> None:
    settings = sets(*TINY, *FITTING.get(name, ()), "model.num_classes=3", f"data.root={root}", "train.max_steps=2")
    result = inceptionctl("train", name, *settings, "--cpu-ranks", "1", cwd=tmp_path, **variables(name))
    assert result.returncode == 0, result.stderr
    (run,) = (tmp_path / "runs").iterdir()
    assert [row["step"] for row in rows(run)] == [1, 2]
    assert (run / "checkpoints" / "latest").read_text() == "step-00000002\n"
    assert f"next: inceptionctl evaluate runs/{run.name}" in result.stderr


PREPARATION = (
    "data.mean=[0.485,0.456,0.406]",
    "data.std=[0.229,0.224,0.225]",
    "data.exif_orientation=false",
    "evaluate.keep_aspect=true",
    "evaluate.interpolation=bicubic",
    "evaluate.antialias=true",
)


def test_the_full_distortion_trains_and_validates_as_it_is_evaluated(root: Path, tmp_path: Path) -> None:
    settings = sets(*TINY, *PREPARATION, "model.num_classes=3", f"data.root={root}", "train.max_steps=2", "train.ema_decay=0.1")
    result = inceptionctl("train", FULL_DISTORTION, *settings, "--cpu-ranks", "1", "--output", "run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (validated,) = rows(tmp_path / "run", "evaluate")
    evaluated = json.loads(inceptionctl("evaluate", "run", "--precision", "fp32", "--json", cwd=tmp_path).stdout)
    assert evaluated["loss"] == pytest.approx(validated["loss"], rel=1e-4)
    assert (evaluated["keep_aspect"], evaluated["interpolation"], evaluated["antialias"]) == (True, "bicubic", True)
    assert evaluated["exif_orientation"] is False
    assert (evaluated["mean"], evaluated["std"]) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert (
        "one central crop of 75 px, resized with the shorter side to 75 / 0.875, bicubic, antialiased, EXIF orientation ignored"
        == evaluated["preparation"]
    )


def test_loaders_of_a_rank_are_told_of_exif() -> None:
    recipe = load_recipe("quickstart", ["data.exif_orientation=false"])
    assert train_transforms(recipe).exif_orientation is False


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_a_cpu_gets_images_in_the_format_that_it_computes_in(precision: str, dtype: torch.dtype) -> None:
    recipe = load_recipe("quickstart", [f"train.precision={precision}"])
    assert loader_settings(recipe, torch.device("cpu"), 1).dtype is dtype
    # A GPU's pipeline has no bfloat16.
    assert loader_settings(recipe, torch.device("cuda", 0), 1).dtype is torch.float32


@pytest.mark.parametrize(
    ("wish", "on_a_gpu"),
    [("auto", ("mixed", False)), ("mixed", ("mixed", False)), ("mixed_roi", ("mixed", True)), ("cpu", ("cpu", True))],
)
def test_gpus_decode_whole_images_unless_asked_for_crops(wish: str, on_a_gpu: tuple[str, bool]) -> None:
    recipe = load_recipe("quickstart", [f"data.decode={wish}"])
    options = loader_settings(recipe, torch.device("cuda", 0), 1)
    assert (options.decode, options.decode_roi) == on_a_gpu
    if wish.startswith("mixed"):
        with pytest.raises(EnvironmentFault, match=f"data.decode is `{wish}`, but there is no GPU"):
            loader_settings(recipe, torch.device("cpu"), 1)
    else:
        options = loader_settings(recipe, torch.device("cpu"), 1)
        assert (options.decode, options.decode_roi) == ("cpu", True)
