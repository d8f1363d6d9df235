"""Checkpoints that TensorFlow wrote, of TF-slim's networks in its own operations: importing them gives the same logits.

The reference runs in a process of its own (`slim_process`). -s prints the differences.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from inceptionctl.cli import app
from inceptionctl.evaluate.trained import Trained, load_trained
from inceptionctl.weights import weight_files
from tests.weights.making import spread

pytestmark = pytest.mark.skipif(
    find_spec("tensorflow") is None, reason="TensorFlow is not installed: scripts/environment does it"
)

NETWORKS = {
    "inception_v3": "inception_v3",
    "inception_v4_tf_slim": "inception_v4",
    "inception_resnet_v2_tf_slim": "inception_resnet_v2",
}


@pytest.fixture(scope="module")
def slim(images: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with NAME.ckpt (V1), training.ckpt-7 (V2, with averages) and NAME.npy, logits without the background."""
    folder = tmp_path_factory.mktemp("slim")
    np.save(folder / "images.npy", images.numpy())
    program = Path(__file__).with_name("slim_process.py")
    command = [sys.executable, str(program), str(folder / "images.npy"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return folder


def imported(file: Path, model: str, output: Path, *options: str) -> tuple[Trained, dict[str, object]]:
    command = ["weights", "import", str(file), "--model", model, "--output", str(output), *options, "--json"]
    answer = CliRunner().invoke(app, command)
    assert answer.exit_code == 0, answer.stderr
    report = json.loads((output / "import.json").read_text())
    assert json.loads(answer.stdout) == {"checkpoint": str(output), **report}
    return load_trained(output, "ema", torch.device("cpu")), report


@pytest.mark.slow
@pytest.mark.parametrize("model", list(NETWORKS))
def test_same_logits_as_tensorflow(slim: Path, model: str, images: torch.Tensor, tmp_path: Path) -> None:
    trained, report = imported(slim / f"{NETWORKS[model]}.ckpt", model, tmp_path / "out")
    expected = torch.from_numpy(np.load(slim / f"{NETWORKS[model]}.npy"))
    with torch.no_grad():
        difference = float((trained.model(images) - expected).abs().max())
    print(f"TF-slim's {NETWORKS[model]} -> {model}: {difference:.1e}, between images at least {spread(expected):.2f}")
    assert spread(expected) > 0.5
    assert difference < 1e-4

    assert report["background_dropped"] and report["num_classes"] == 1000 and report["aux_head"]
    assert trained.classes[0] == "n01440764" and trained.classes[-1] == "n15075141"
    notes = [item["note"] for item in report["mapped"]]
    assert notes.count("without its first row, the background") == 4  # of two classifiers
    assert notes.count("ones: TF-slim's batch norm has no gamma") == sum("running_mean" in m["ours"] for m in report["mapped"])
    assert report["dropped"] == []
    evaluation = trained.recipe.evaluate
    assert (evaluation.keep_aspect, evaluation.interpolation, evaluation.antialias) == (False, "bilinear", False)
    assert trained.recipe.model.batch_norm_eps == 1e-3 and trained.recipe.data.mean == (0.5, 0.5, 0.5)


def test_head_and_background_as_asked_for(slim: Path, tmp_path: Path) -> None:
    options = ("--no-aux-head", "--num-classes", "1001")
    trained, report = imported(slim / "inception_v3.ckpt", "inception_v3", tmp_path / "out", *options)
    assert not report["background_dropped"]
    assert len(trained.classes) == 1001 and trained.classes[0] == "class_0000"
    assert not report["aux_head"] and trained.recipe.model.aux_head is False
    assert len(report["dropped"]) == 10
    for item in report["dropped"]:
        assert item["theirs"].startswith("InceptionV3/AuxLogits/")
        assert item["reason"] == "auxiliary head; the network is built without one"


def test_averages_of_a_training_checkpoint(slim: Path, images: torch.Tensor, tmp_path: Path) -> None:
    checkpoint = slim / "training.ckpt-7"
    averaged, report = imported(checkpoint, "inception_v3", tmp_path / "ema")
    expected = torch.from_numpy(np.load(slim / "inception_v3.npy"))
    with torch.no_grad():
        assert float((averaged.model(images) - expected).abs().max()) < 1e-4
    reasons = {item["theirs"]: item["reason"] for item in report["dropped"]}
    first = "InceptionV3/Conv2d_1a_3x3/weights"
    assert reasons["global_step"] == reasons[f"{first}/RMSProp"] == "no weight: state of the optimizer or the session"
    assert reasons[first] == "last weights; their running average was taken"

    last, report = imported(slim / "training.ckpt-7.index", "inception_v3", tmp_path / "raw", "--weights", "raw")
    name = "stem.conv_1.conv.weight"
    assert torch.equal(last.model.state_dict()[name], averaged.model.state_dict()[name] + 1.0)
    reasons = {item["theirs"]: item["reason"] for item in report["dropped"]}
    assert reasons[f"{first}/ExponentialMovingAverage"] == "running average; the last weights were asked for"


def test_a_damaged_checkpoint(slim: Path, tmp_path: Path) -> None:
    content = (slim / "inception_v3.ckpt").read_bytes()
    (tmp_path / "bad.ckpt").write_bytes(content[:1000] + content[2000:])
    command = ["weights", "import", str(tmp_path / "bad.ckpt"), "--model", "inception_v3", "--output", str(tmp_path / "out")]
    answer = CliRunner().invoke(app, command)
    assert answer.exit_code == 5
    assert "TensorFlow cannot read" in answer.stderr and "hint:" in answer.stderr
    assert not (tmp_path / "out").exists()


def test_without_tensorflow_the_extra_is_named(slim: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_files.importlib.util, "find_spec", lambda name: None)
    answer = CliRunner().invoke(app, ["weights", "import", str(slim / "inception_v3.ckpt"), "--model", "inception_v3"])
    assert answer.exit_code == 4
    assert "pip install 'inceptionctl[tf-slim]'" in answer.stderr
