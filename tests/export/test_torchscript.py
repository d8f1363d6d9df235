"""model.pt by torch's own interpreter; inceptionctl opens none."""

import io
import json
import zipfile
from collections import Counter
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from inceptionctl.cli import app
from inceptionctl.stderr_capture import quiet


def test_torchscript_agrees_for_any_batch_size(folder: Path, images: torch.Tensor, expected: torch.Tensor) -> None:
    extra = {"config.json": ""}
    with quiet():
        module = torch.jit.load(folder / "model.pt", _extra_files=extra)
        for count in (1, 2, 5):
            assert (module(images[:count]) - expected[:count]).abs().max() < 1e-4
    told = json.loads(extra["config.json"])
    assert told == json.loads((folder / "config.json").read_text())


def test_batch_norm_is_folded_and_weights_are_constants(folder: Path) -> None:
    with quiet():
        module = torch.jit.load(folder / "model.pt")
        kinds = Counter(node.kind() for node in module.inlined_graph.nodes())
    assert kinds["aten::_convolution"] == 149 and kinds["aten::batch_norm"] == 0
    assert not list(module.parameters())


def test_it_carries_no_places_of_this_machine(folder: Path) -> None:
    with zipfile.ZipFile(io.BytesIO((folder / "model.pt").read_bytes())) as archive:
        names = archive.namelist()
        assert not [name for name in names if name.endswith(".debug_pkl")]
        assert any(name.endswith("constants.pkl") for name in names) and len(names) == len(set(names))
        place = str(Path(__file__).resolve().parents[2]).encode()
        assert not [name for name in names if place in archive.read(name)]


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_a_program_is_not_opened(folder: Path, data: Path, command: str) -> None:
    rest = [str(data / "val" / "cat" / "0.jpg")] if command == "predict" else []
    answer = CliRunner().invoke(app, [command, str(folder / "model.pt"), *rest])
    assert answer.exit_code == 5
    assert "is TorchScript, a program of its own" in answer.stderr and "hint:" in answer.stderr
