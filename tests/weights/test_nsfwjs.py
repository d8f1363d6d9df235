"""A real Inception-v3 from another program, against that program's own answers; needs files that tests do not fetch.

INCEPTIONCTL_TEST_NSFWJS names the folder that the commands in `nsfwjs.js` were run in; INCEPTIONCTL_TEST_PHOTOGRAPHS one of
photographs.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from inceptionctl.cli import app
from inceptionctl.evaluate.inputs import folder_of, load_images
from inceptionctl.evaluate.trained import load_trained
from tests.defaults import preparation
from tests.weights.nsfwjs import probabilities, state_dict

FOLDER = os.environ.get("INCEPTIONCTL_TEST_NSFWJS")
pytestmark = pytest.mark.skipif(not FOLDER, reason="INCEPTIONCTL_TEST_NSFWJS names no folder with nsfwjs: see nsfwjs.js")


def test_same_answers_as_tensorflow_js(photographs: list[Path], tmp_path: Path) -> None:
    folder = Path(str(FOLDER))
    save_file(state_dict(folder), tmp_path / "nsfwjs.safetensors")
    command = ["weights", "import", tmp_path / "nsfwjs.safetensors", "--model", "inception_v3", "--output", tmp_path / "out"]
    command += ["--mean", 0, 0, 0, "--std", 1, 1, 1]
    answer = CliRunner().invoke(app, [str(word) for word in command])
    assert answer.exit_code == 0, answer.stderr
    trained = load_trained(tmp_path / "out", "ema", torch.device("cpu"))
    prepared = preparation(299, mean=trained.recipe.data.mean, std=trained.recipe.data.std)
    images = torch.cat(list(load_images(folder_of(photographs[:6]), prepared, batch_size=6, num_threads=1)))
    images.permute(0, 2, 3, 1).numpy().astype(np.float32).tofile(folder / "images.bin")
    subprocess.run(["node", str(Path(__file__).with_name("nsfwjs.js")), "ask", str(folder)], check=True)
    expected = torch.tensor(json.loads((folder / "answers.json").read_text()))
    with torch.no_grad():
        found = probabilities(folder, trained.model(images))
    print(f"probabilities differ by up to {float((found - expected).abs().max()):.1e}:\n{expected}")
    assert (expected.amax(0) - expected.amin(0)).max() > 0.05
    assert torch.allclose(found, expected, atol=1e-4, rtol=0)
