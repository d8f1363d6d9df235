"""The same data, run and threads as the tests of evaluation, and its exports, made once by the real command."""

import subprocess
from pathlib import Path

import onnx
import pytest
import torch
from typer.testing import CliRunner

from inceptionctl.cli import app
from inceptionctl.evaluate.trained import Trained, load_trained
from inceptionctl.export.comparison import Reference, Validation, draw_reference, draw_validation
from inceptionctl.run import Run
from tests.commands import inceptionctl
from tests.evaluate.conftest import data, fixed_threads, run
from tests.evaluate.making import INPUT_PX, one_thread

__all__ = ["data", "fixed_threads", "run"]

CPU = torch.device("cpu")
FORMATS = ("onnx", "safetensors", "pt2", "torchscript")
LICENSES = ("--license", "apache-2.0", "--data-license", "CC BY-NC-SA 4.0")


@pytest.fixture(scope="session")
def done(run: Run) -> subprocess.CompletedProcess[str]:
    for protocol in ("single", "10crop"):
        assert (
            CliRunner().invoke(app, ["evaluate", str(run.path), "--protocol", protocol, "--precision", "fp32"]).exit_code == 0
        )
    command = ["export", str(run.path), "--json", *LICENSES]
    command += [part for name in FORMATS for part in ("--format", name)]
    command += ["--precision", "fp32", "--precision", "fp16", "--precision", "int8", "--check", "openvino"]
    command += ["--calibration-images", "6", "--max-accuracy-loss", "50"]
    return inceptionctl(*command)


@pytest.fixture
def folder(done: subprocess.CompletedProcess[str], run: Run) -> Path:
    assert done.returncode == 0, done.stderr
    return run.export


@pytest.fixture
def network(folder: Path) -> onnx.ModelProto:
    return onnx.load(folder / "model.onnx")


@pytest.fixture(scope="package")
def trained(run: Run) -> Trained:
    """To read only."""
    return load_trained(run.path, "ema", CPU)


@pytest.fixture(scope="package")
def reference(trained: Trained, data: Path) -> Reference:
    return draw_reference(trained, data, 1, with_pictures=True)


@pytest.fixture(scope="package")
def validation(trained: Trained, data: Path) -> Validation:
    return draw_validation(trained, data, 500, 50.0, 1)


@pytest.fixture(scope="session")
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(5, 3, 4, 4, generator=generator) * 2.0 - 1.0
    return torch.nn.functional.interpolate(coarse, size=(INPUT_PX, INPUT_PX), mode="bicubic").clamp(-1.0, 1.0)


@pytest.fixture(scope="session")
def expected(run: Run, images: torch.Tensor) -> torch.Tensor:
    # Made before `fixed_threads` is, and a sum over the threads that a test elsewhere has set would be rounded otherwise.
    with one_thread(), torch.no_grad():
        return load_trained(run.path, "ema", CPU).model(images)
