"""ONNX in other opsets, made of the network that the command has traced once, and what it is made of."""

from collections import Counter

import numpy as np
import onnx
import pytest
import torch

from inceptionctl.errors import CheckpointError, RecipeError
from inceptionctl.evaluate.trained import Trained
from inceptionctl.export.onnx_options import check_opset, most_opset
from inceptionctl.export.to_onnx import in_opset
from inceptionctl.run import Run
from tests.export.asking import answers, run_command


@pytest.mark.parametrize("opset", [14, 17, 21, most_opset()])
def test_another_opset_is_the_same_network(
    network: onnx.ModelProto, images: torch.Tensor, expected: torch.Tensor, opset: int
) -> None:
    other = in_opset(network, opset)
    onnx.checker.check_model(other, full_check=True)
    assert [(item.domain, item.version) for item in other.opset_import] == [("", opset)]
    assert other.ir_version == onnx.helper.find_min_ir_version_for(other.opset_import)
    assert np.abs(answers(other, images) - expected.numpy()).max() < 1e-4
    assert network.opset_import[0].version == 18  # what was given is left as it was


@pytest.mark.parametrize(("opset", "preprocessing", "said"), [(13, False, "14 to"), (99, False, "14 to"), (17, True, "18 to")])
def test_an_opset_that_cannot_be_had(run: Run, opset: int, preprocessing: bool, said: str) -> None:
    with pytest.raises(RecipeError, match=f"can be written in opsets {said} {most_opset()}"):
        check_opset(opset, preprocessing)
    options = ["--preprocessing"] if preprocessing else []
    answer = run_command("export", run.path, "--format", "onnx", "--opset", opset, *options)
    assert answer.exit_code == 2 and f"--opset {opset}" in answer.stderr


def test_an_operator_that_the_opset_does_not_have(network: onnx.ModelProto) -> None:
    with pytest.raises(CheckpointError, match=r"cannot be converted to opset 13: .*Relu"):
        in_opset(network, 13)


def test_batch_norm_is_folded(network: onnx.ModelProto, trained: Trained) -> None:
    assert sum(isinstance(module, torch.nn.BatchNorm2d) for module in trained.model.modules()) == 149
    kinds = Counter(node.op_type for node in network.graph.node)
    assert kinds["BatchNormalization"] == 0
    assert kinds["Conv"] == kinds["Relu"] == 149


@pytest.mark.parametrize("option", [("--precision", "fp16"), ("--preprocessing",), ("--opset", "20"), ("--check", "openvino")])
def test_options_of_onnx_without_onnx(run: Run, option: tuple[str, ...]) -> None:
    answer = run_command("export", run.path, "--format", "safetensors", *option)
    assert answer.exit_code == 2
    assert "apply to ONNX, which is not among the formats" in answer.stderr
