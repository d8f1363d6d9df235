"""ONNX with the preprocessing inside."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pandas
import pytest
import torch
from PIL import Image

from inceptionctl.errors import CheckpointError, DataError
from inceptionctl.evaluate.trained import Trained
from inceptionctl.export.comparison import Reference, Validation, check_pixels, draw_reference
from inceptionctl.export.exporters import export
from inceptionctl.export.onnx_options import OnnxOptions
from inceptionctl.export.openvino_check import ask_openvino
from inceptionctl.export.reduced import calibration_images
from inceptionctl.export.to_onnx import onnx_exporters, open_export
from inceptionctl.run import Run
from tests.evaluate.making import photo
from tests.export.asking import run_command, session

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pixels_folder(
    done: subprocess.CompletedProcess[str],
    run: Run,
    trained: Trained,
    reference: Reference,
    validation: Validation,
    data: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Beside the other exports of a run of its own, so that evaluations of it find their place."""
    assert done.returncode == 0, done.stderr
    copy = Path(shutil.copytree(run.path, tmp_path_factory.mktemp("pixels") / "tiny"))
    network = onnx.load(run.export / "model.onnx")
    of_onnx = onnx_exporters(
        [OnnxOptions(precision, True) for precision in ("fp32", "fp16", "int8")],
        calibration_images(trained, data, 6, 1),
        (ask_openvino,),
        tracer=lambda trained: network,
    )
    made = export(trained, list(of_onnx), copy / "export", reference, exporters=of_onnx, validation=validation)
    assert [item.path.name for item in made] == ["model_pixels.onnx", "model_pixels_fp16.onnx", "model_pixels_int8.onnx"]
    assert made[0].of == "probability" and 0.0 < made[0].max_difference < 0.01
    assert all("OpenVINO" in item.remarks[0] for item in made)
    return copy / "export"


@pytest.fixture(scope="module")
def pixels(pixels_folder: Path) -> Path:
    return pixels_folder / "model_pixels.onnx"


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


def test_pixels_that_disagree_are_refused(reference: Reference) -> None:
    def off_by(value: float):
        def logits(pictures: torch.Tensor) -> torch.Tensor:
            place = next(i for i, picture in enumerate(reference.pictures) if torch.equal(picture[0], pictures[0]))
            probabilities = reference.expected[place].softmax(0)
            probabilities[2] += value
            probabilities[3] -= value
            return probabilities.log().expand(len(pictures), -1)

        return logits

    assert check_pixels("x", off_by(0.0), reference) < 1e-6
    assert check_pixels("x", off_by(0.004), reference) == pytest.approx(0.004, rel=1e-2)
    with pytest.raises(CheckpointError, match=r"probabilities differ by up to 0\.02"):
        check_pixels("x", off_by(0.02), reference)


def test_pixels_are_compared_on_real_pictures_alone(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="compared on real pictures"):
        draw_reference(trained, tmp_path / "nowhere", 1, with_pictures=True)


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
