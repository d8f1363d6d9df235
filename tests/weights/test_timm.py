"""timm and ours give the same logits from the same weights, in both directions; full networks, JPEG files.

INCEPTIONCTL_TEST_PHOTOGRAPHS names a folder of photographs to use in place of generated JPEGs; -s prints the differences.
"""

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from inceptionctl.cli import app
from inceptionctl.evaluate.trained import load_trained
from inceptionctl.models import build_model
from inceptionctl.weights.counterparts import COUNTERPARTS
from tests.weights.making import INPUT_PX, NUM_CLASSES, calibrate, save_as_checkpoint, spread

CPU = torch.device("cpu")
FAMILIES = ("inception_v3_torchvision", "inception_v4_tf_slim", "inception_resnet_v2_tf_slim")
OTHERS = ("resnet_18", "resnet_50_v1_5")


def run(*arguments: str | Path):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def agree(ours: torch.Tensor, theirs: torch.Tensor, what: str) -> None:
    difference = float((ours - theirs).abs().max())
    print(f"{what}: logits differ by up to {difference:.1e}, between images by at least {spread(theirs):.2f}")
    assert spread(theirs) > 0.5
    assert difference < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("model", [*FAMILIES, *OTHERS])
def test_timm_to_ours(timm: ModuleType, model: str, images: torch.Tensor, tmp_path: Path) -> None:
    counterpart = COUNTERPARTS["timm"][model]
    theirs = calibrate(timm.create_model(counterpart.name, num_classes=NUM_CLASSES), images, seed=1)
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    answer = run("weights", "import", tmp_path / "model.safetensors", "--model", model, "--output", tmp_path / "ours")
    assert answer.exit_code == 0, answer.stderr
    trained = load_trained(tmp_path / "ours", "ema", CPU)
    with torch.no_grad():
        agree(trained.model(images), theirs(images), f"timm's {counterpart.name} -> {model}")
    assert trained.recipe.model.batch_norm_eps == counterpart.batch_norm_eps
    assert trained.recipe.data.mean == counterpart.mean and trained.recipe.data.std == counterpart.std
    assert (trained.recipe.evaluate.keep_aspect, trained.recipe.evaluate.interpolation) == (True, "bicubic")
    assert trained.recipe.evaluate.central_fraction == counterpart.central_fraction


@pytest.mark.slow
@pytest.mark.parametrize("model", [*FAMILIES, "resnet_18"])
def test_ours_to_timm(timm: ModuleType, model: str, images: torch.Tensor, tmp_path: Path) -> None:
    counterpart = COUNTERPARTS["timm"][model]
    # Another epsilon than timm's goes into config.json, for the networks that take one.
    section = {"batch_norm_eps": 5e-2 if model == "inception_v4_tf_slim" else counterpart.batch_norm_eps}
    if model in FAMILIES:
        section["aux_head"] = model == "inception_v3_torchvision"
    network = calibrate(build_model(model, num_classes=NUM_CLASSES, input_px=INPUT_PX, **section), images, seed=2)
    checkpoint = save_as_checkpoint(tmp_path / "checkpoints", network, model, **section)
    answer = run("export", checkpoint, "--format", "timm", "--output", tmp_path / "out", "--json")
    assert answer.exit_code == 0, answer.stderr
    (done,) = json.loads(answer.stdout)["exports"]
    assert f"compared with the logits that timm {timm.__version__} gives" in done["remarks"]
    assert ("the auxiliary head is left out" in str(done["remarks"])) == section.get("aux_head", False)

    folder = tmp_path / "out" / "timm"
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    theirs.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    with torch.no_grad():
        agree(network(images), theirs(images), f"{model} -> timm's {counterpart.name}")
    assert theirs.num_classes == NUM_CLASSES
    kept = theirs.pretrained_cfg
    assert kept["input_size"] == (3, INPUT_PX, INPUT_PX) or list(kept["input_size"]) == [3, INPUT_PX, INPUT_PX]
    assert (kept["crop_pct"], kept["crop_mode"], kept["interpolation"]) == (0.875, "squash", "bilinear")
    assert list(kept["mean"]) == [0.5, 0.5, 0.5] and kept["label_names"][2] == "sign_2"
    # Fine-tuning there: the classifier and the first convolution are where config.json says.
    assert timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=3, in_chans=1).num_classes == 3
