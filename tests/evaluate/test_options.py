"""Options of the network's family go with a run: from its recipe into the network that evaluates, and into the export."""

import json
from pathlib import Path

import pytest
import torch

from inceptionctl.errors import CheckpointError
from inceptionctl.evaluate.trained import load_trained
from inceptionctl.export.description import describe, parse_description
from inceptionctl.export.to_safetensors import open_export, write
from inceptionctl.models import build_model
from inceptionctl.recipe.load import recipe_from_dict
from inceptionctl.run import create_run
from inceptionctl.train.checkpoint import Progress, save_checkpoint
from inceptionctl.train.optim import WeightAverage, build_optimizer

CPU = torch.device("cpu")
OLD = {
    "format": 1,
    "architecture": "inception_v4",
    "width": 0.125,
    "batch_norm_eps": 0.001,
    "num_classes": 2,
    "class_names": ["a", "b"],
    "input_px": 75,
    "central_fraction": 0.875,
    "weights": "ema",
    "step": 1,
    "checkpoint": "run/checkpoints/step-1",
    "checkpoint_sha256": "0" * 64,
}
CASES = [
    {"name": "inception_resnet_v1", "input_px": 75, "residual_scale": [0.3, 0.2, 0.4]},
    {"name": "inception_resnet_v2", "input_px": 107, "residual_scale": 1.0, "aux_head": True},
    {"name": "resnet_18", "input_px": 64, "residual_unit": "bottleneck"},
    {"name": "inception_v3", "input_px": 139},
]


@pytest.mark.parametrize("options", CASES, ids=lambda options: options["name"])
def test_options_survive_the_checkpoint_and_the_export(options, tmp_path: Path) -> None:
    section = {**options, "width": 0.125, "num_classes": 3}
    recipe = recipe_from_dict({"model": section, "data": {"root": str(tmp_path)}}, "test")
    torch.manual_seed(0)
    model = build_model(**recipe.model.network())
    x = torch.randn(2, 3, options["input_px"], options["input_px"])
    with torch.no_grad():
        model(
            x.repeat(4, 1, 1, 1) * torch.linspace(0.5, 2, 8).view(8, 1, 1, 1)
        )  # statistics that are not those of a new network
        for norm in (layer for layer in model.modules() if isinstance(layer, torch.nn.BatchNorm2d)):
            norm.bias.fill_(0.5)
    run = create_run(tmp_path / "run", recipe)
    progress = Progress(step=1, total_steps=1, classes=["a", "b", "c"], recipe=recipe.resolved())
    optimizer = build_optimizer(model, recipe.optim, 0.01)
    save_checkpoint(run.checkpoints, model, WeightAverage(model, 0.9), optimizer, progress)

    trained = load_trained(run.path, "raw", CPU)
    with torch.no_grad():
        expected = model.eval()(x)
        assert torch.equal(trained.model(x), expected)

    for name, content in write(trained, describe(trained)).items():
        (tmp_path / name).write_bytes(content)
    torch.testing.assert_close(open_export(tmp_path / "model.safetensors", CPU).logits(x), expected)


def test_a_description_of_before_these_options_is_read() -> None:
    arguments = parse_description(json.dumps(OLD), "config.json").model_arguments()
    assert (arguments["aux_head"], arguments["residual_scale"], arguments["residual_unit"]) == (None, None, None)
    with torch.device("meta"):
        assert build_model(**arguments).aux_head is None


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"residual_scale": 0.1}, "no residuals"), ({"residual_scale": 0.0}, "residual_scale"), ({"input_px": 74}, "too small")],
)
def test_a_description_that_no_network_has(wrong, words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        parse_description(json.dumps(OLD | wrong), "config.json")
