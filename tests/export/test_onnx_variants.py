"""ONNX in other opsets, in fewer bits, and with the preprocessing inside, made of the network that the command has traced once."""

import json
import os
import platform
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pandas
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from inceptionctl.cli import app
from inceptionctl.errors import CheckpointError, DataError, RecipeError
from inceptionctl.evaluate.trained import Trained, load_trained
from inceptionctl.export.accuracy import Validation, draw_validation, instruction_set, loss_interval
from inceptionctl.export.checking import Sample, check_pixels, draw_sample
from inceptionctl.export.exporting import export
from inceptionctl.export.onnx_options import OnnxOptions, check_opset, most_opset
from inceptionctl.export.openvino_check import ask_openvino
from inceptionctl.export.reduced import calibration_images, to_int8
from inceptionctl.export.to_onnx import in_opset, onnx_exporters, open_export
from inceptionctl.run import Run
from tests.evaluate.making import CLASSES, photo

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(run: Run) -> Trained:
    return load_trained(run.path, "ema", CPU)


@pytest.fixture(scope="module")
def sample(trained: Trained, data: Path) -> Sample:
    return draw_sample(trained, data, 1, with_pictures=True)


@pytest.fixture(scope="module")
def validation(trained: Trained, data: Path) -> Validation:
    return draw_validation(trained, data, 500, 50.0, 1)


@pytest.fixture
def network(folder: Path) -> onnx.ModelProto:
    return onnx.load(folder / "model.onnx")


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def answers(model: onnx.ModelProto, images: torch.Tensor) -> np.ndarray:
    """Batches of one and of the others."""
    asked = session(model)
    return np.concatenate([asked.run(["logits"], {"images": part.numpy()})[0] for part in (images[:1], images)])[1:]


def run_command(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


# Opsets


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
    with pytest.raises(CheckpointError, match=r"cannot be had in opset 13: .*Relu"):
        in_opset(network, 13)


# Batch norm


def test_batch_norm_is_folded(network: onnx.ModelProto, trained: Trained) -> None:
    assert sum(isinstance(module, torch.nn.BatchNorm2d) for module in trained.model.modules()) == 149
    kinds = Counter(node.op_type for node in network.graph.node)
    assert kinds["BatchNormalization"] == 0
    assert kinds["Conv"] == kinds["Relu"] == 149


# Fewer bits


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
    one, other, third = (to_int8(network, calibration_images(trained, data, count, 1)) for count in (3, 3, 6))
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
    network: onnx.ModelProto, trained: Trained, sample: Sample, validation: Validation, tmp_path: Path
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
        export(trained, ["onnx fp16"], folder, sample, exporters=of_onnx, validation=replace(images, max_loss=50.0))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"model_fp16.onnx": b"the one before"}
    (done,) = export(trained, ["onnx fp16"], folder, sample, exporters=of_onnx, validation=replace(images, max_loss=60.0))
    assert "loses 83.33 points" in done.remarks[-1] and "which may be chance" in done.remarks[-1]
    (done,) = export(trained, ["onnx fp16"], folder, sample, exporters=of_onnx, validation=replace(images, max_loss=90.0))
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
    network: onnx.ModelProto, trained: Trained, sample: Sample, validation: Validation, tmp_path: Path
) -> None:
    of_onnx = onnx_exporters([OnnxOptions("fp16")], tracer=lambda trained: spoiled(network, float("nan")))
    with pytest.raises(CheckpointError, match="not finite"):
        export(trained, ["onnx fp16"], tmp_path, sample, exporters=of_onnx, validation=replace(validation, max_loss=100.0))
    assert list(tmp_path.iterdir()) == []


def test_int8_needs_a_training_split(trained: Trained, data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / "val", tmp_path / "val")
    with pytest.raises(DataError, match="calibrated on images of the training split"):
        calibration_images(trained, tmp_path, 4, 1)
    with pytest.raises(DataError, match="measured on validation images"):
        draw_validation(trained, tmp_path / "nowhere", 4, 1.0, 1)


# Preprocessing inside


@pytest.fixture(scope="module")
def pixels_folder(
    run: Run, trained: Trained, sample: Sample, validation: Validation, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Beside the other exports of a run of its own, so that evaluations of it find their place."""
    copy = Path(shutil.copytree(run.path, tmp_path_factory.mktemp("pixels") / "tiny"))
    network = onnx.load(run.export / "model.onnx")
    of_onnx = onnx_exporters(
        [OnnxOptions(precision, True) for precision in ("fp32", "fp16", "int8")],
        calibration_images(trained, data, 6, 1),
        (ask_openvino,),
        tracer=lambda trained: network,
    )
    done = export(trained, list(of_onnx), copy / "export", sample, exporters=of_onnx, validation=validation)
    assert [item.path.name for item in done] == ["model_pixels.onnx", "model_pixels_fp16.onnx", "model_pixels_int8.onnx"]
    assert done[0].of == "probability" and 0.0 < done[0].max_difference < 0.01
    assert all("OpenVINO" in item.remarks[0] for item in done)
    return copy / "export"


@pytest.fixture(scope="module")
def pixels(folder_made: Path, pixels_folder: Path) -> Path:
    return pixels_folder / "model_pixels.onnx"


@pytest.fixture(scope="module")
def folder_made(done, run: Run) -> Path:
    assert done.returncode == 0, done.stderr
    return run.export


def test_pixels_go_in_and_probabilities_come_out(pixels: Path, trained: Trained) -> None:
    model = onnx.load(pixels)
    onnx.checker.check_model(model, full_check=True)
    (given,), (asked,) = model.graph.input, model.graph.output
    assert (given.name, given.type.tensor_type.elem_type) == ("pixels", onnx.TensorProto.UINT8)
    assert [dim.dim_param or dim.dim_value for dim in given.type.tensor_type.shape.dim] == ["batch", "height", "width", 3]
    assert (asked.name, asked.type.tensor_type.shape.dim[1].dim_value) == ("probabilities", 6)
    told = open_export(pixels, CPU).description
    assert (told.pixels_in, told.output, told.precision) == (True, "probabilities", "fp32")
    assert told.input_layout == "N x height x width x 3, uint8, RGB"
    for size in ((131, 77), (60, 200)):
        two = np.stack([np.asarray(photo(seed, *size)) for seed in (1, 2)])
        (found,) = session(model).run(["probabilities"], {"pixels": two})
        assert found.shape == (2, 6) and found.sum(1) == pytest.approx([1.0, 1.0], abs=1e-5)
        assert np.abs(found[0] - found[1]).max() > 1e-3


@pytest.mark.parametrize("name", ["model_pixels.onnx", "model_pixels_fp16.onnx"])
def test_predictions_of_pixels_are_the_runs(pixels_folder: Path, run: Run, data: Path, name: str) -> None:
    paths = sorted((data / "val").glob("*/*.jpg"))
    found = []
    for source in (run.path, pixels_folder / name):
        answer = run_command("predict", source, *paths, "--json")
        assert answer.exit_code == 0, answer.output
        predictions = json.loads(answer.stdout)["predictions"]
        found.append([{item["class"]: item["probability"] for item in one["classes"]} for one in predictions])
    for of_run, of_export in zip(*found, strict=True):
        for name in of_run.keys() & of_export.keys():
            assert of_export[name] == pytest.approx(of_run[name], abs=0.02)


def test_an_evaluation_of_pixels_is_the_runs(pixels_folder: Path, run: Run, data: Path, tmp_path: Path) -> None:
    plain = run_command("evaluate", run.path, "--precision", "fp32", "--json", "--output", tmp_path / "run.json")
    assert plain.exit_code == 0, plain.output
    expected = np.stack(pandas.read_parquet(tmp_path / "run.parquet")["probabilities"])
    for name, variant in (("model_pixels", "onnx_pixels"), ("model_pixels_int8", "onnx_pixels_int8")):
        answer = run_command("evaluate", pixels_folder / f"{name}.onnx", "--json")
        assert answer.exit_code == 0, answer.output
        file = pixels_folder.parent / "evaluations" / f"step-00000010_ema_{variant}_single.json"
        result = json.loads(file.read_text())
        assert result["num_images"] == 24
        assert result["precision"] == ("int8" if "int8" in name else "fp32")
        if "int8" not in name:
            assert abs(result["loss"] - json.loads(plain.stdout)["loss"]) < 1e-2
            found = np.stack(pandas.read_parquet(file.with_suffix(".parquet"))["probabilities"])
            assert 0.0 < np.abs(found - expected).max() < 0.01


def test_pixels_have_no_other_crop(pixels_folder: Path) -> None:
    answer = run_command("evaluate", pixels_folder / "model_pixels.onnx", "--protocol", "10crop")
    assert answer.exit_code == 2
    assert "crops pictures by itself, so there is no --protocol 10crop" in answer.stderr


def test_pixels_that_disagree_are_refused(sample: Sample) -> None:
    def off_by(value: float):
        def logits(pictures: torch.Tensor) -> torch.Tensor:
            place = next(i for i, picture in enumerate(sample.pictures) if torch.equal(picture[0], pictures[0]))
            probabilities = sample.expected[place].softmax(0)
            probabilities[2] += value
            probabilities[3] -= value
            return probabilities.log().expand(len(pictures), -1)

        return logits

    assert check_pixels("x", off_by(0.0), sample) < 1e-6
    assert check_pixels("x", off_by(0.004), sample) == pytest.approx(0.004, rel=1e-2)
    with pytest.raises(CheckpointError, match=r"probabilities differ by up to 0\.02"):
        check_pixels("x", off_by(0.02), sample)


def test_pixels_are_compared_on_real_pictures_alone(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="compared on real pictures"):
        draw_sample(trained, tmp_path / "nowhere", 1, with_pictures=True)


# The command


@pytest.mark.parametrize("option", [("--precision", "fp16"), ("--preprocessing",), ("--opset", "20"), ("--check", "openvino")])
def test_options_of_onnx_without_onnx(run: Run, option: tuple[str, ...]) -> None:
    answer = run_command("export", run.path, "--format", "safetensors", *option)
    assert answer.exit_code == 2
    assert "are of ONNX, which is not among the formats" in answer.stderr


def test_pictures_of_another_way_up_are_turned_before(pixels_folder: Path, data: Path, tmp_path: Path) -> None:
    """EXIF is read by who decodes: the file gets pixels."""
    upright = Image.open(data / "val" / "cat" / "0.jpg")
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.save(tmp_path / "a.png")
    turned.save(tmp_path / "b.jpg", quality=98, subsampling=0, exif=exif)
    answer = run_command("predict", pixels_folder / "model_pixels.onnx", tmp_path / "a.png", tmp_path / "b.jpg", "--json")
    one, other = (
        {item["class"]: item["probability"] for item in entry["classes"]} for entry in json.loads(answer.stdout)["predictions"]
    )
    assert one == pytest.approx(other, abs=0.03)
