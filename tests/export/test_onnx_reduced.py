"""ONNX in fewer bits: what is in the files, what they are calibrated on, and how much they lose."""

import copy
import json
import os
import platform
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from inceptionctl.errors import CheckpointError, DataError
from inceptionctl.evaluate.trained import Trained
from inceptionctl.export.comparison import Reference, Validation, draw_validation, instruction_set, loss_interval
from inceptionctl.export.exporters import export
from inceptionctl.export.onnx_options import OnnxOptions
from inceptionctl.export.reduced import calibration_images, to_int8
from inceptionctl.export.to_onnx import onnx_exporters, open_export
from tests.evaluate.making import CLASSES
from tests.export.asking import answers

CPU = torch.device("cpu")


def test_half_precision_with_inputs_and_outputs_of_fp32(folder: Path, images: torch.Tensor, expected: torch.Tensor) -> None:
    model = onnx.load(folder / "model_fp16.onnx")
    assert {item.type.tensor_type.elem_type for item in (*model.graph.input, *model.graph.output)} == {onnx.TensorProto.FLOAT}
    weights = [item for item in model.graph.initializer if len(item.dims) == 4]
    assert len(weights) == 149 and {item.data_type for item in weights} == {onnx.TensorProto.FLOAT16}
    assert (folder / "model_fp16.onnx").stat().st_size < 0.65 * (folder / "model.onnx").stat().st_size
    difference = np.abs(answers(model, images) - expected.numpy()).max()
    assert 1e-5 < difference < 0.1  # it is not fp32 under another name


def test_int8_has_a_scale_for_each_channel(folder: Path, images: torch.Tensor, expected: torch.Tensor) -> None:
    model = onnx.load(folder / "model_int8.onnx")
    constants = {item.name: item for item in model.graph.initializer}
    weights = [item for item in model.graph.initializer if len(item.dims) == 4]
    assert len(weights) == 149 and {item.data_type for item in weights} == {onnx.TensorProto.INT8}
    taken = {node.input[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
    for item in weights:
        assert list(constants[taken[item.name].input[1]].dims) == [item.dims[0]]
        # Two products with activations of up to 255 then fit into 16 bits, as processors without VNNI need it.
        assert np.abs(onnx.numpy_helper.to_array(item).astype(np.int32)).max() == 64
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["QuantizeLinear"] > 149
    found = answers(model, images)
    assert np.corrcoef(found.flatten(), expected.numpy().flatten())[0, 1] > 0.8


def test_calibration_images_are_of_the_training_split_and_always_the_same(trained: Trained, data: Path) -> None:
    drawn = calibration_images(trained, data, 4, 1)
    first, again = (torch.cat(list(drawn())) for _ in range(2))
    assert first.shape == (4, 3, 75, 75) and torch.equal(first, again)
    every = torch.cat(list(calibration_images(trained, data, 100, 1)()))
    assert len(every) == 6  # all that there are
    assert all(any(torch.equal(image, other) for other in every) for image in first)
    assert torch.equal(first[1], every[1]) and torch.equal(first[3], every[4])  # evenly spaced
    validated = torch.cat(list(draw_validation(trained, data, 24, 1.0, 1)._inputs(takes_pixels=False)))
    assert not any(torch.equal(image, other) for image in every for other in validated)


def test_the_same_images_give_the_same_int8_file(network: onnx.ModelProto, trained: Trained, data: Path) -> None:
    one, other, third = (to_int8(copy.deepcopy(network), calibration_images(trained, data, count, 1)) for count in (3, 3, 6))
    assert one.SerializeToString() == other.SerializeToString() != third.SerializeToString()


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_loss_that_is_told_is_a_plain_computations(
    folder: Path, done, validation: Validation, data: Path, precision: str
) -> None:
    model = onnx.load(folder / f"model_{precision}.onnx")
    told = json.loads({item.key: item.value for item in model.metadata_props}["accuracy"])
    (listed,) = (item for item in json.loads(done.stdout)["exports"] if item["format"] == f"onnx {precision}")
    assert listed["accuracy"] == told and listed["max_difference"] == told["max_difference"]
    assert json.loads({item.key: item.value for item in model.metadata_props}["class_names"]) == list(CLASSES)
    images = torch.cat(list(validation._inputs(takes_pixels=False)))
    labels = np.repeat(np.arange(6), 4)
    found, expected = answers(model, images), validation.expected.numpy()
    assert told["num_images"] == 24
    assert told["top1"] == pytest.approx(100 * (found.argmax(1) == labels).mean())
    assert told["top1_checkpoint"] == pytest.approx(100 * (expected.argmax(1) == labels).mean())
    assert told["loss"] == pytest.approx(told["top1_checkpoint"] - told["top1"])
    assert told["agreement"] == pytest.approx(100 * (found.argmax(1) == expected.argmax(1)).mean())
    assert told["max_difference"] == pytest.approx(np.abs(found - expected).max(), rel=1e-3)
    ours, theirs = expected.argmax(1) == labels, found.argmax(1) == labels
    assert told["loss_interval"] == list(loss_interval(int((ours & ~theirs).sum()), int((theirs & ~ours).sum()), 24))
    assert told["instruction_set"] == instruction_set()


def spoiled(network: onnx.ModelProto, more: float) -> onnx.ModelProto:
    """Every image is of the last class, by so much."""
    copy = onnx.ModelProto()
    copy.CopyFrom(network)
    (bias,) = (item for item in copy.graph.initializer if item.name == "classifier.bias")
    values = onnx.numpy_helper.to_array(bias) + np.float32([0.0] * 5 + [more])
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    return copy


def rightly_named(validation: Validation, root: Path) -> Validation:
    """The same images in the folders that the checkpoint names: it is right on all 24, and 4 are of the last class."""
    for i, label in enumerate(validation.expected.argmax(1)):
        folder = root / "val" / CLASSES[int(label)]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(os.fsdecode(validation.images.path(i)), folder / f"{i}.jpg")
    return draw_validation(validation.trained, root, 500, 0.0, 1)


def test_an_export_that_loses_too_much_is_not_written(
    network: onnx.ModelProto, trained: Trained, reference: Reference, validation: Validation, tmp_path: Path
) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "model_fp16.onnx").write_bytes(b"the one before")
    of_onnx = onnx_exporters([OnnxOptions("fp16")], tracer=lambda trained: spoiled(network, 100.0))
    images = rightly_named(validation, tmp_path / "data")
    with pytest.raises(
        CheckpointError,
        match=r"loses 83.33 points .* \(100.00% to 16.67% of 24 .* loss 57.5. to 96.3.\), more than --max-accuracy-loss 50",
    ):
        export(trained, ["onnx fp16"], folder, reference, exporters=of_onnx, validation=replace(images, max_loss=50.0))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"model_fp16.onnx": b"the one before"}
    (done,) = export(trained, ["onnx fp16"], folder, reference, exporters=of_onnx, validation=replace(images, max_loss=60.0))
    assert "loses 83.33 points" in done.remarks[-1] and "which may be chance" in done.remarks[-1]
    (done,) = export(trained, ["onnx fp16"], folder, reference, exporters=of_onnx, validation=replace(images, max_loss=90.0))
    assert done.remarks == ()
    found = open_export(folder / "model_fp16.onnx", CPU).description.accuracy
    assert found.loss == pytest.approx(100 * 20 / 24) and found.loss_interval == list(loss_interval(20, 0, 24))


@pytest.mark.parametrize(
    ("lost", "gained", "num_images", "interval"),
    [
        (3, 0, 200, (-0.68, 3.65)),  # 1.5 points, and as good as chance
        (10, 0, 200, (1.66, 8.24)),
        (10, 7, 200, (-2.74, 5.71)),
        (0, 0, 500, (-0.55, 0.55)),
        (0, 20, 24, (-96.31, -57.53)),
        (1, 0, 1, (-73.35, 100.0)),
    ],
)
def test_the_interval_of_a_loss(lost: int, gained: int, num_images: int, interval: tuple[float, float]) -> None:
    assert loss_interval(lost, gained, num_images) == pytest.approx(interval, abs=0.01)


@pytest.mark.parametrize(("of_lost", "of_gained"), [(0.015, 0.0), (0.02, 0.01), (0.05, 0.05), (0.3, 0.1)])
def test_the_interval_holds_the_true_loss_95_times_of_100(of_lost: float, of_gained: float) -> None:
    draws = np.random.default_rng(0).multinomial(200, [of_lost, of_gained, 1 - of_lost - of_gained], 4000)
    intervals = np.array([loss_interval(int(lost), int(gained), 200) for lost, gained, _ in draws])
    true = 100 * (of_lost - of_gained)
    assert 0.935 < ((intervals[:, 0] <= true) & (true <= intervals[:, 1])).mean()
    assert (intervals[:, 0] > true).mean() < 0.04  # of which a good export would be refused


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512bw avx512_vnni amx_int8", "AMX-INT8"),
        ("flags\t\t: fpu avx2 avx512f avx512bw avx512_vnni", "AVX512-VNNI"),
        ("flags\t\t: fpu avx avx2 avx_vnni", "AVX-VNNI"),
        ("flags\t\t: fpu avx2 avx512f avx512bw", "AVX-512 without VNNI"),
        ("flags\t\t: fpu avx avx2", "AVX2 without VNNI"),
        ("Features\t: fp asimd asimddp", "NEON with dot products"),
        ("flags\t\t: fpu sse2", platform.machine()),
    ],
)
def test_what_8_bits_are_multiplied_with(line: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: X\n{line}\nbugs\t: avx512_vnni\n")
    assert instruction_set(tmp_path / "cpuinfo") == name
    assert instruction_set(tmp_path / "nowhere") == platform.machine()


def test_an_export_of_no_numbers_is_not_written(
    network: onnx.ModelProto, trained: Trained, reference: Reference, validation: Validation, tmp_path: Path
) -> None:
    of_onnx = onnx_exporters([OnnxOptions("fp16")], tracer=lambda trained: spoiled(network, float("nan")))
    with pytest.raises(CheckpointError, match="not finite"):
        export(trained, ["onnx fp16"], tmp_path, reference, exporters=of_onnx, validation=replace(validation, max_loss=100.0))
    assert list(tmp_path.iterdir()) == []


def test_int8_needs_a_training_split(trained: Trained, data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / "val", tmp_path / "val")
    with pytest.raises(DataError, match="calibrated on images of the training split"):
        calibration_images(trained, tmp_path, 4, 1)
    with pytest.raises(DataError, match="measured on validation images"):
        draw_validation(trained, tmp_path / "nowhere", 4, 1.0, 1)
