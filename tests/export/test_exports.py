"""Exports of a small trained network, made once by the real command in a process of its own, then read by their own clients."""

import json
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from inceptionctl.cli import app
from inceptionctl.models import build_model
from inceptionctl.run import Run
from inceptionctl.stderr_capture import quiet
from tests.evaluate.making import CLASSES, INPUT_PX

SAID = ("onnx", "onnx fp16", "onnx int8", "safetensors", "pt2", "torchscript")
FILES = [
    "README.md",
    "config.json",
    "model.onnx",
    "model.pt",
    "model.pt2",
    "model.safetensors",
    "model_fp16.onnx",
    "model_int8.onnx",
]


def test_the_logits_differ_between_images(expected: torch.Tensor) -> None:
    assert (expected.amax(0) - expected.amin(0)).min() > 0.1


def test_nothing_but_our_own_words_is_printed(folder: Path, done: subprocess.CompletedProcess[str]) -> None:
    said = [f"exporting {name} ..." for name in SAID]
    taken = "exporting the newest checkpoint: step 10, not validated; no best one is kept"
    assert done.stderr.splitlines() == [taken, *said, f"wrote {folder}"]
    json.loads(done.stdout)


def test_what_the_command_reports(folder: Path, done: subprocess.CompletedProcess[str], data: Path) -> None:
    result = json.loads(done.stdout)
    assert (result["weights"], result["step"]) == ("ema", 10)
    assert result["compared_on"] == f"8 validation images of {data}"
    assert result["logit_spread"] > 0.5
    assert [item["format"] for item in result["exports"]] == list(SAID)
    for item in result["exports"]:
        fewer_bits = item["format"] in ("onnx fp16", "onnx int8")
        assert 0.0 <= item["max_difference"] < (2.0 if fewer_bits else 1e-4)
        assert (item["accuracy"] is not None) == fewer_bits
        asked_openvino = [remark for remark in item["remarks"] if "OpenVINO" in remark]
        assert len(asked_openvino) == item["format"].startswith("onnx")
        assert Path(item["path"]).parent == folder
    sizes = {item["format"]: item["bytes"] for item in result["exports"]}
    assert sizes["onnx"] == (folder / "model.onnx").stat().st_size
    assert sizes["safetensors"] == (folder / "model.safetensors").stat().st_size + (folder / "config.json").stat().st_size


def test_only_whole_files_are_left(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == FILES


def test_onnx_agrees_for_any_batch_size(folder: Path, images: torch.Tensor, expected: torch.Tensor) -> None:
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    for count in (1, 2, 5):
        (logits,) = session.run(["logits"], {"images": images[:count].numpy()})
        assert np.abs(logits - expected[:count].numpy()).max() < 1e-4


def test_onnx_is_one_valid_file_that_tells_what_it_needs(folder: Path) -> None:
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    (given,) = model.graph.input
    dims = given.type.tensor_type.shape.dim
    assert (given.name, dims[0].dim_param) == ("images", "batch")
    assert [dim.dim_value for dim in dims[1:]] == [3, INPUT_PX, INPUT_PX]
    facts = {item.key: item.value for item in model.metadata_props}
    assert json.loads(facts["class_names"]) == list(CLASSES)
    assert (facts["input_px"], facts["central_fraction"], facts["interpolation"]) == (str(INPUT_PX), "0.875", "bilinear")
    assert (json.loads(facts["mean"]), json.loads(facts["std"])) == ([0.5] * 3, [0.5] * 3)
    assert (facts["weights"], facts["step"], facts["architecture"]) == ("ema", "10", "inception_v4")


@pytest.mark.parametrize("name", ["model.onnx", "model_int8.onnx", "model.pt2", "model.pt"])
def test_graphs_carry_no_paths_of_this_machine(folder: Path, name: str) -> None:
    # A path in a Windows or UNIX checkout would hold this file's name of the network; pt2 does not compress its graph.
    assert b"inception_v4.py" not in (folder / name).read_bytes()


def test_safetensors_load_strictly_into_a_fresh_network(folder: Path, images: torch.Tensor, expected: torch.Tensor) -> None:
    config = json.loads((folder / "config.json").read_text())
    model = build_model(
        config["architecture"],
        num_classes=config["num_classes"],
        width=config["width"],
        batch_norm_eps=config["batch_norm_eps"],
    )
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    with torch.no_grad():
        assert torch.equal(model.eval()(images), expected)


def test_config_says_where_it_comes_from(folder: Path, run: Run) -> None:
    config = json.loads((folder / "config.json").read_text())
    manifest = json.loads((run.checkpoints / "step-00000010" / "manifest.json").read_text())
    assert config["checkpoint_sha256"] == manifest["files"]["ema.safetensors"]["sha256"]
    assert config["checkpoint"] == "tiny/checkpoints/step-00000010"
    assert config["class_names"] == list(CLASSES)


def test_pt2_agrees_for_any_batch_size(folder: Path, images: torch.Tensor, expected: torch.Tensor) -> None:
    extra = {"config.json": ""}
    with quiet():
        module = torch.export.load(folder / "model.pt2", extra_files=extra).module()
    for count in (1, 2, 5):
        assert (module(images[:count]) - expected[:count]).abs().max() < 1e-4
    assert json.loads(extra["config.json"]) == json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("name", ["model.onnx", "model.safetensors", "model.pt2", "."])
def test_predictions_of_exports_are_the_runs(folder: Path, run: Run, data: Path, name: str) -> None:
    paths = [str(path) for path in sorted((data / "val").glob("*/0.jpg"))]
    answers = []
    for source in (run.path, folder / name):
        answer = CliRunner().invoke(app, ["predict", str(source), *paths, "--json"])
        assert answer.exit_code == 0, answer.output
        answers.append(json.loads(answer.stdout)["predictions"])
    for of_run, of_export in zip(*answers, strict=True):
        assert [item["class"] for item in of_run["classes"]] == [item["class"] for item in of_export["classes"]]
        found = [item["probability"] for item in of_export["classes"]]
        assert found == pytest.approx([item["probability"] for item in of_run["classes"]], abs=1e-4)


@pytest.mark.parametrize("name", ["model.onnx", "model.safetensors", "model.pt2"])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_half_an_export_is_refused(folder: Path, data: Path, tmp_path: Path, name: str, share: float) -> None:
    content = (folder / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * share)])
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    image = str(data / "val" / "cat" / "0.jpg")
    answer = CliRunner().invoke(app, ["predict", str(tmp_path / name), image])
    assert answer.exit_code == 5, answer.output
    assert f"cannot read {tmp_path / name}" in answer.stderr and "hint:" in answer.stderr


def test_an_onnx_file_of_someone_else(data: Path, tmp_path: Path) -> None:
    info = onnx.helper.make_tensor_value_info
    one, two = (info(name, onnx.TensorProto.FLOAT, [1, 3]) for name in ("a", "b"))
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["a"], ["b"])], "g", [one], [two])
    model = onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 18)])
    onnx.save(model, tmp_path / "other.onnx")
    answer = CliRunner().invoke(app, ["predict", str(tmp_path / "other.onnx"), str(data / "val" / "cat" / "0.jpg")])
    assert answer.exit_code == 5
    assert "class_names: Field required" in answer.stderr
