"""The same data, run and threads as the tests of evaluation, and exports of that run by the real command in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from inceptionctl.cli import app
from inceptionctl.run import Run
from tests.evaluate.conftest import data, fixed_threads, run

__all__ = ["data", "fixed_threads", "run"]

FORMATS = ("onnx", "safetensors", "pt2")
LICENSES = ("--license", "apache-2.0", "--data-license", "CC BY-NC-SA 4.0")


@pytest.fixture(scope="session")
def done(run: Run) -> subprocess.CompletedProcess[str]:
    for protocol in ("single", "10crop"):
        assert (
            CliRunner().invoke(app, ["evaluate", str(run.path), "--protocol", protocol, "--precision", "fp32"]).exit_code == 0
        )
    command = [sys.executable, "-m", "inceptionctl", "export", str(run.path), "--json", *LICENSES]
    command += [part for name in FORMATS for part in ("--format", name)]
    # On a busy machine threads that wait for each other by spinning take many times as long.
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_WAIT_POLICY": "passive"})


@pytest.fixture
def folder(done: subprocess.CompletedProcess[str], run: Run) -> Path:
    assert done.returncode == 0, done.stderr
    return run.export
