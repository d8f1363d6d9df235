"""What `export --format timm` refuses, what it says, and how it is read again; ResNet-18 is the quickest to build."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from inceptionctl.cli import app
from inceptionctl.evaluate.trained import load_trained
from inceptionctl.export.exporters import open_any
from inceptionctl.models import build_model
from tests.weights.making import NUM_CLASSES, calibrate, save_as_checkpoint

CPU = torch.device("cpu")


def run(*arguments: str | Path):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def checkpoint(images: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = calibrate(build_model("resnet_18", num_classes=NUM_CLASSES, batch_norm_eps=1e-5), images, seed=4)
    return save_as_checkpoint(tmp_path_factory.mktemp("checkpoints"), network, "resnet_18", batch_norm_eps=1e-5)


def without_timm(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(sys.modules, "timm", None)  # Python's own way to say that a package is not to be had


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        without_timm(patch)
        answer = run("export", checkpoint, "--format", "timm", "--format", "safetensors", "--output", folder)
    assert answer.exit_code == 0, answer.stderr
    assert "timm/model.safetensors" in answer.stdout
    said = " ".join(answer.stdout.split())
    assert "timm: compared with the logits that inceptionctl's own network, names mapped back" in said
    assert "timm, which is not installed" in said
    return folder


def test_both_kinds_of_safetensors_lie_side_by_side(exported: Path) -> None:
    assert sorted(str(path.relative_to(exported)) for path in exported.rglob("*") if path.is_file()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "timm/config.json",
        "timm/model.safetensors",
    ]
    assert "conv1.weight" in load_file(exported / "timm" / "model.safetensors")
    assert "stem.conv.conv.weight" in load_file(exported / "model.safetensors")


def test_predict_reads_it_back(exported: Path, checkpoint: Path, images: torch.Tensor, photographs: list[Path]) -> None:
    trained = load_trained(checkpoint, "ema", CPU)
    for source in (exported / "timm", exported / "timm" / "model.safetensors"):
        opened, taken, _ = open_any(source, CPU)
        assert taken == exported / "timm" / "model.safetensors"
        with torch.no_grad():
            assert torch.equal(opened.logits(images), trained.model(images))
    theirs = json.loads(run("predict", exported / "timm", photographs[0], "--json").stdout)["predictions"]
    ours = json.loads(run("predict", checkpoint, photographs[0], "--json").stdout)["predictions"]
    assert theirs == ours and theirs[0]["classes"][0]["class"].startswith("sign_")


def test_a_folder_with_nothing_but_the_timm_export(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "timm").mkdir()
    for name in ("model.safetensors", "config.json"):
        (tmp_path / "timm" / name).write_bytes((exported / "timm" / name).read_bytes())
    assert open_any(tmp_path, CPU)[1] == tmp_path / "timm" / "model.safetensors"


@pytest.mark.parametrize("spoil", ["someone else's", "a tensor less", "cut", "not JSON"])
def test_files_that_predict_cannot_read(exported: Path, photographs: list[Path], tmp_path: Path, spoil: str) -> None:
    model, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    model.write_bytes((exported / "timm" / "model.safetensors").read_bytes())
    content = json.loads((exported / "timm" / "config.json").read_text())
    if spoil == "someone else's":
        del content["inceptionctl"]
    if spoil == "a tensor less":
        save_file({name: tensor for name, tensor in load_file(model).items() if name != "fc.bias"}, model)
    if spoil == "cut":
        model.write_bytes(model.read_bytes()[:1000])
    config.write_text("{" if spoil == "not JSON" else json.dumps(content))
    said = {
        "someone else's": "was not written by inceptionctl",
        "a tensor less": "missing: classifier.bias 7 <- fc.bias",
        "cut": "cannot read",
        "not JSON": "is not JSON",
    }
    answer = run("predict", model, photographs[0])
    assert answer.exit_code == 5, answer.output
    assert said[spoil] in answer.stderr and "hint:" in answer.stderr


NARROW = {"width": 0.125, "batch_norm_eps": 1e-3}


@pytest.mark.parametrize(
    ("model", "section", "said", "hint"),
    [
        ("inception_v4", NARROW, "1x7 and 7x1 kernels follow each other as the paper's figures", "train inception_v4_tf_slim"),
        ("inception_v3", NARROW, "leave the padding out of the mean", "train inception_v3_torchvision"),
        ("inception_resnet_v2", NARROW, "half as many blocks", "train inception_resnet_v2_tf_slim"),
        ("resnet_50", NARROW, "first 1x1 convolution, theirs in the 3x3", "train resnet_50_v1_5"),
        ("inception_resnet_v1", NARROW, "none under another name", "--format safetensors"),
        ("inception_v4_tf_slim", NARROW, "inception_v4 with model.width 1.0 alone", "model.width=1.0"),
        (
            "inception_resnet_v2_tf_slim",
            {"width": 1.0, "residual_scale": 0.3},
            "model.residual_scale (0.17, 0.1, 0.2) alone",
            "--format safetensors",
        ),
        ("resnet_18", {"batch_norm_eps": 1e-3}, "resnet18 with model.batch_norm_eps 1e-05 alone", "model.batch_norm_eps=1e-05"),
        ("resnet_18", {"batch_norm_eps": 1e-5, "residual_unit": "bottleneck"}, "residual_unit original alone", "--format"),
    ],
)
def test_networks_that_timm_does_not_have(model: str, section: dict, said: str, hint: str, tmp_path: Path) -> None:
    network = build_model(model, num_classes=NUM_CLASSES, input_px=107, **section).eval()
    checkpoint = save_as_checkpoint(tmp_path / "checkpoints", network, model, **section)
    answer = run("export", checkpoint, "--format", "timm", "--output", tmp_path / "out")
    assert answer.exit_code == 5, answer.output
    assert said in answer.stderr and hint in answer.stderr.partition("hint:")[2], answer.stderr
    assert not list((tmp_path / "out").iterdir())


def test_timm_that_does_not_load_it_keeps_it_from_being_written(
    timm: object, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from inceptionctl.weights import timm_names

    def spoiled(units: tuple[int, ...], convolutions: int) -> dict[str, str]:
        return {ours: theirs.replace("layer1.0", "layer1.9") for ours, theirs in names(units, convolutions).items()}

    names = timm_names.resnet
    from inceptionctl.weights import counterparts

    monkeypatch.setitem(
        counterparts.COUNTERPARTS["timm"],
        "resnet_18",
        counterparts.Counterpart(
            "resnet18",
            lambda: spoiled((2, 2, 2, 2), 2),
            batch_norm_eps=1e-5,
            takes_batch_norm_eps=False,
            first_conv="stem.conv.conv",
        ),
    )
    answer = run("export", checkpoint, "--format", "timm", "--output", tmp_path / "out")
    assert answer.exit_code == 5
    assert "does not load the export" in answer.stderr and "it was not written" in answer.stderr
    assert not list((tmp_path / "out").iterdir())


def test_an_import_goes_out_again_with_its_preparation(exported: Path, tmp_path: Path) -> None:
    source = exported / "timm" / "model.safetensors"
    assert run("weights", "import", source, "--model", "resnet_18", "--output", tmp_path / "in").exit_code == 0
    answer = run("export", tmp_path / "in", "--format", "timm", "--data", tmp_path, "--output", tmp_path / "out")
    assert answer.exit_code == 0, answer.stderr
    assert (tmp_path / "out" / "timm" / "model.safetensors").read_bytes() == source.read_bytes()
    kept = json.loads((tmp_path / "out" / "timm" / "config.json").read_text())["pretrained_cfg"]
    assert (kept["crop_mode"], kept["interpolation"], kept["crop_pct"]) == ("center", "bicubic", 0.875)
    assert kept["mean"] == [0.485, 0.456, 0.406] and kept["std"] == [0.229, 0.224, 0.225]
