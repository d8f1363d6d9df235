"""What happens when an export goes wrong, on the quickest format."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from inceptionctl.cli import app
from inceptionctl.errors import CheckpointError, EnvironmentFault
from inceptionctl.evaluate.trained import Trained, load_trained
from inceptionctl.export import exporters
from inceptionctl.export.comparison import (
    MAX_ROUNDINGS,
    Reference,
    check,
    draw_reference,
    largest_difference,
    pseudo_random_images,
)
from inceptionctl.export.description import Description, describe, description_of_properties, parse_description
from inceptionctl.export.exporters import export, exported_file
from inceptionctl.export.to_safetensors import write
from inceptionctl.run import Run
from tests.data.resampling import middle_square
from tests.defaults import preparation
from tests.evaluate.making import CLASSES
from tests.evaluate.test_evaluation import in_other_form

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def reference(trained: Trained, data: Path) -> Reference:
    return draw_reference(trained, data, 1)


def spoiled(trained: Trained, description: Description) -> dict[str, bytes]:
    """Safetensors of a network whose last layer is off by little."""
    model = load_trained(trained.checkpoint, "ema", CPU).model
    model.get_submodule("classifier").bias[2] += 3e-4
    return write(replace(trained, model=model), description)


def test_an_export_that_disagrees_is_not_put_in_place(
    trained: Trained, reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(trained, ["safetensors"], tmp_path, reference)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setitem(exporters.EXPORTERS, "safetensors", replace(exporters.SAFETENSORS, write=spoiled))
    with pytest.raises(CheckpointError, match=r"logits differ by up to 0.0003 on 8 validation images"):
        export(trained, ["safetensors"], tmp_path, reference)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_full_disk_leaves_the_old_export(
    trained: Trained, reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(trained, ["safetensors"], tmp_path, reference)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(path: Path, content: bytes) -> None:
        path.write_bytes(content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporters, "write_atomically", full)
    with pytest.raises(EnvironmentFault, match="no space left"):
        export(trained, ["safetensors"], tmp_path, reference)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_export_is_replaced(run: Run, reference: Reference, tmp_path: Path) -> None:
    for which, step in (("5", 5), ("latest", 10)):
        trained = load_trained(run.path, "ema", CPU, which)
        export(trained, ["safetensors"], tmp_path, draw_reference(trained, Path("nowhere"), 1))
        assert json.loads((tmp_path / "config.json").read_text())["step"] == step


def test_the_network_is_left_as_it_was(trained: Trained, reference: Reference, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in trained.model.state_dict().items()}
    export(trained, ["safetensors"], tmp_path, reference)
    after = trained.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not trained.model.training


def test_sample_of_real_images(trained: Trained, reference: Reference, data: Path) -> None:
    assert reference.images.shape[0] == 8
    assert reference.source == f"8 validation images of {data}"
    assert reference.tells
    with torch.no_grad():
        assert torch.equal(reference.expected, trained.model(reference.images))
    assert len(torch.unique(reference.images.flatten(1), dim=0)) == 8


def test_sample_without_data_says_so(trained: Trained, tmp_path: Path) -> None:
    reference = draw_reference(trained, tmp_path / "nowhere", 1)
    assert reference.source.startswith("8 pseudo-random images (the data set")
    assert reference.logit_spread > 0.1
    assert torch.equal(reference.images, pseudo_random_images(8, 75))
    assert reference.images.abs().max() <= 1.0


def test_sample_of_broken_data_says_so(trained: Trained, data: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(data, tmp_path / "broken"))
    (broken / "val" / CLASSES[0] / "0.jpg").write_bytes(b"\xff\xd8\xff nothing")
    assert "pseudo-random images (cannot decode" in draw_reference(trained, broken, 1).source


def test_difference_is_the_largest_and_nan_is_none_at_all(reference: Reference) -> None:
    def off_by(value: float, image: int):
        def logits(images: torch.Tensor) -> torch.Tensor:
            found = reference.expected[:1] if len(images) == 1 else reference.expected[1:]
            found = found.clone()
            if len(images) != 1:
                found[image] += value
            return found

        return logits

    assert largest_difference(off_by(0.0, 0), reference) == 0.0
    assert largest_difference(off_by(-0.5, 3), reference) == pytest.approx(0.5, rel=1e-5)
    assert largest_difference(off_by(float("nan"), 3), reference) == float("inf")
    with pytest.raises(CheckpointError):
        check("model.x", off_by(float("nan"), 6), reference)


class Amplified(torch.nn.Module):
    """A network that makes a lot of its rounding: it adds 10,000 and takes it off again."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return ((x.flatten(1)[:, :6] + 1e4) - 1e4) * 10.0


def test_rounding_of_the_checkpoint_itself_is_no_disagreement() -> None:
    reference = Reference(Amplified(), pseudo_random_images(8, 75), "blotches")
    assert 1e-4 < reference.rounding < 1e-2
    for times, fine in ((2.0, True), (8.0, False)):
        shift = times * reference.rounding

        def logits(images: torch.Tensor, shift: float = shift) -> torch.Tensor:
            return Amplified()(images) + shift

        if fine:
            assert check("model.x", logits, reference) == pytest.approx(shift, rel=1e-2)
        else:
            with pytest.raises(CheckpointError, match="fp32 rounding explains"):
                check("model.x", logits, reference)


def test_rounding_is_small_in_a_network_like_a_trained_one(reference: Reference) -> None:
    assert 0.0 < reference.rounding < 1e-4 / MAX_ROUNDINGS
    assert next(reference.model.parameters()).dtype == torch.float32


def test_logits_that_do_not_differ_are_warned_of(run: Run, tmp_path: Path) -> None:
    same = Reference(Amplified(), torch.zeros(2, 3, 75, 75), "zeros")
    assert not same.tells
    from inceptionctl.cli.export import _print_exports

    result = {"exports": [], "checkpoint": "c", "weights": "ema", "folder": "f"}
    with CliRunner().isolation() as (_, stderr, _):
        _print_exports(result, same, as_json=True)
        assert b"warning: the logits hardly differ between images" in stderr.getvalue()


def test_description_survives_both_forms(trained: Trained) -> None:
    description = describe(trained)
    assert parse_description(description.to_json(), "x") == description
    properties = description.to_properties()
    assert all(isinstance(value, str) for value in properties.values())
    assert description_of_properties({**properties, "someone": "else's"}, "x") == description


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architecture": "resnet50"}, "unknown architecture 'resnet50'; this version knows bn_inception"),
        ({"class_names": ["a"]}, "1 class_names for 6 num_classes"),
        ({"input_px": "75"}, "input_px: Input should be a valid integer"),
        ({"format": 2}, "format: Input should be 1"),
        ({"std": [0.2, 0.0, 0.2]}, "std.1: Input should be greater than 0"),
        ({"mean": [0.5]}, "mean: List should have at least 3 items"),
        ({"interpolation": "box"}, "interpolation: Input should be 'bilinear'"),
    ],
)
def test_a_config_that_cannot_be_used(trained: Trained, change: dict[str, object], said: str) -> None:
    text = json.dumps({**describe(trained).model_dump(), **change})
    with pytest.raises(CheckpointError) as caught:
        parse_description(text, "folder/config.json")
    assert said in caught.value.message and "folder/config.json" in caught.value.message
    assert caught.value.hint


def test_descriptions_from_before_the_preparation_was_a_choice(trained: Trained) -> None:
    older = {
        key: value
        for key, value in describe(trained).model_dump().items()
        if key not in {"keep_aspect", "antialias", "exif_orientation"}
    }
    assert parse_description(json.dumps(older), "x").preparation == preparation(75)


def test_predictions_of_an_export_prepare_images_as_the_recipe_did(trained: Trained, data: Path, tmp_path: Path) -> None:
    other = in_other_form(trained, interpolation="bicubic", central_fraction=0.5)
    export(other, ["safetensors"], tmp_path, draw_reference(other, data, 1))
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["keep_aspect"], config["antialias"], config["interpolation"]) == (True, True, "bicubic")
    assert (
        config["exif_orientation"] is False and parse_description(json.dumps(config), "x").preparation.exif_orientation is False
    )
    assert (config["mean"], config["std"]) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    path = data / "val" / "cat" / "0.jpg"
    square = middle_square(np.array(Image.open(path)), 75, 0.5, "bicubic", antialias=True).round() / 255
    prepared = ((square - config["mean"]) / config["std"]).transpose(2, 0, 1)[None]
    expected = trained.model(torch.from_numpy(prepared).float()).softmax(1)[0]
    answer = predicted(tmp_path, data)
    (found,) = json.loads(answer.stdout)["predictions"]
    likeliest = {item["class"]: item["probability"] for item in found["classes"]}
    assert likeliest == pytest.approx({name: float(expected[CLASSES.index(name)]) for name in likeliest}, abs=0.01)
    plain = tmp_path / "plain"
    export(trained, ["safetensors"], plain, draw_reference(trained, data, 1))
    (otherwise,) = json.loads(predicted(plain, data).stdout)["predictions"]
    apart = [abs(item["probability"] - likeliest.get(item["class"], 0.0)) for item in otherwise["classes"]]
    assert max(apart) > 0.2  # else the comparison would tell little


@pytest.fixture
def exported(trained: Trained, reference: Reference, tmp_path: Path) -> Path:
    export(trained, ["safetensors"], tmp_path, reference)
    return tmp_path


def predicted(source: Path, data: Path):
    return CliRunner().invoke(app, ["predict", str(source), str(data / "val" / "cat" / "0.jpg"), "--json"])


def test_safetensors_need_their_config(exported: Path, data: Path) -> None:
    (exported / "config.json").unlink()
    answer = predicted(exported, data)
    assert answer.exit_code == 5
    assert "has no config.json beside it" in answer.stderr and "hint:" in answer.stderr


def test_safetensors_of_a_checkpoint_are_no_export(run: Run, data: Path) -> None:
    answer = predicted(run.checkpoints / "step-00000010" / "ema.safetensors", data)
    assert answer.exit_code == 5
    assert "of a checkpoint name the folder" in answer.stderr


def test_files_of_two_exports_do_not_mix(exported: Path, data: Path) -> None:
    config = json.loads((exported / "config.json").read_text())
    config["checkpoint_sha256"] = "0" * 64
    (exported / "config.json").write_text(json.dumps(config))
    answer = predicted(exported, data)
    assert answer.exit_code == 5
    assert "of different checkpoints" in answer.stderr


def test_weights_that_do_not_fit_the_config(exported: Path, data: Path) -> None:
    config = json.loads((exported / "config.json").read_text())
    config["width"] = 0.25
    (exported / "config.json").write_text(json.dumps(config))
    answer = predicted(exported, data)
    assert answer.exit_code == 5
    assert "of another network" in answer.stderr


def test_command_prints_a_table(run: Run, tmp_path: Path) -> None:
    arguments = ["export", str(run.path), "--format", "safetensors", "--weights", "raw", "--checkpoint", "5"]
    answer = CliRunner().invoke(app, [*arguments, "--output", str(tmp_path / "new")])
    assert answer.exit_code == 0, answer.output
    assert "model.safetensors" in answer.stdout and "largest difference" in answer.stdout
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    assert (config["weights"], config["step"]) == ("raw", 5)


def test_command_outside_of_a_run_needs_a_folder(run: Run, tmp_path: Path) -> None:
    copy = shutil.copytree(run.checkpoints / "step-00000010", tmp_path / "step-00000010")
    answer = CliRunner().invoke(app, ["export", str(copy), "--format", "safetensors"])
    assert answer.exit_code == 2
    assert "--output DIR" in answer.stderr


def test_command_knows_its_formats(run: Run) -> None:
    answer = CliRunner().invoke(app, ["export", str(run.path), "--format", "tflite"])
    assert answer.exit_code == 2
    assert "tflite" in answer.stderr


@pytest.mark.parametrize("file", ["model.onnx", "model_pixels_int8.onnx", "triton/net/1/model.onnx", "model.pt"])
def test_a_folder_of_one_variant_is_a_folder_of_exports(file: str, tmp_path: Path) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).touch()
    (tmp_path / "README.md").touch()
    assert exported_file(tmp_path) == tmp_path / file
