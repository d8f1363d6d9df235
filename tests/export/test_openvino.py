"""ONNX files in OpenVINO, as --check openvino asks it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from inceptionctl.errors import CheckpointError
from inceptionctl.export.openvino_check import ask_openvino

# Every socket and process that Python opens passes here: openvino imports openvino-telemetry, which is Python.
LISTENING = """
import sys
from pathlib import Path
import torch
opened = []
listened = ("socket.", "subprocess.", "os.fork", "os.posix_spawn", "urllib.")
sys.addaudithook(lambda event, arguments: opened.append(event) if event.startswith(listened) else None)
from inceptionctl.export.openvino_check import ask_openvino
name, logits = ask_openvino(Path(sys.argv[1]))
print(tuple(logits(torch.zeros(1, 3, 75, 75)).shape), opened)
"""


def test_openvino_agrees_for_any_batch_size(folder: Path, images: torch.Tensor, expected: torch.Tensor) -> None:
    name, logits = ask_openvino(folder / "model.onnx")
    assert name.startswith("OpenVINO 20")
    for count in (1, 2, 5):
        assert (logits(images[:count]) - expected[:count]).abs().max() < 1e-4


def test_nothing_is_sent(folder: Path) -> None:
    command = [sys.executable, "-c", LISTENING, str(folder / "model.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "(1, 6) []"


def test_what_openvino_does_not_read(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"nothing of ONNX")
    with pytest.raises(CheckpointError, match=r"OpenVINO .* rejects the export"):
        ask_openvino(tmp_path / "model.onnx")
