"""`inceptionctl weights import`: what it takes, what it refuses and in which words. ResNet-18 is the quickest to build."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner

from inceptionctl.cli import app
from inceptionctl.evaluate.trained import load_trained
from inceptionctl.models import MODELS, build_model
from inceptionctl.train import checkpoint_files
from inceptionctl.weights.counterparts import COUNTERPARTS, imagenet_wnids
from inceptionctl.weights.names import their_tensor

MODEL = "resnet_18"
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    """A state dict in torchvision's naming, 6 classes."""
    torch.manual_seed(0)
    network = build_model(MODEL, num_classes=6)
    names = COUNTERPARTS["torchvision"][MODEL].names()
    return {str(their_tensor(names, name, "torch")): value for name, value in network.state_dict().items()}


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., object]:
    def invoke(file: Path, *options: str | Path, model: str = MODEL):
        words = ["weights", "import", file, "--model", model, "--output", tmp_path / "out", *options]
        return CliRunner().invoke(app, [str(word) for word in words])

    return invoke


def refused(answer, code: int, *words: str) -> None:
    assert answer.exit_code == code, answer.output
    assert answer.stderr.startswith("error: ") and "hint:" in answer.stderr and "Traceback" not in answer.stderr
    for word in words:
        assert word in answer.stderr, f"{word!r} is not in:\n{answer.stderr}"


def test_a_safetensors_file(run, state: State, tmp_path: Path) -> None:
    save_file(state, tmp_path / "a.safetensors")
    answer = run(tmp_path / "a.safetensors")
    assert answer.exit_code == 0, answer.stderr
    assert "122 matched; none missing, unexpected or of another shape" in answer.stdout
    assert answer.stderr.splitlines() == [
        f"wrote {tmp_path / 'out'}; next: inceptionctl evaluate {tmp_path / 'out'} --data ROOT"
    ]
    checkpoint_files.verify(tmp_path / "out")
    report = json.loads((tmp_path / "out" / "import.json").read_text())
    assert {"ours": "stem.conv.conv.weight", "theirs": "conv1.weight", "shape": [64, 3, 7, 7], "note": ""} in report["mapped"]
    for weights in ("ema", "raw"):
        trained = load_trained(tmp_path / "out", weights, torch.device("cpu"))
        assert trained.classes == tuple(f"class_{i:04d}" for i in range(6))
        for name, value in trained.model.state_dict().items():
            assert torch.equal(value, state[str(their_tensor(COUNTERPARTS["timm"][MODEL].names(), name, "torch"))])


@pytest.mark.parametrize("old", [False, True])
def test_a_training_checkpoint_with_wrappers(run, state: State, tmp_path: Path, old: bool) -> None:
    wrapped = {f"module._orig_mod.{name}": value.half() for name, value in state.items() if "num_batches" not in name}
    other = {name: value + 1.0 for name, value in wrapped.items()}
    torch.save(
        {"epoch": 3, "state_dict": other, "state_dict_ema": wrapped, "optimizer": {"lr": 0.1}},
        tmp_path / "last.pth.tar",
        _use_new_zipfile_serialization=not old,
    )
    answer = run(tmp_path / "last.pth.tar")
    assert answer.exit_code == 0, answer.stderr
    assert "20 not in the file: 0: the file does not count batches" in answer.stdout
    report = json.loads((tmp_path / "out" / "import.json").read_text())
    reasons = {item["theirs"]: item["reason"] for item in report["dropped"]}
    assert reasons == dict.fromkeys(("epoch", "state_dict", "optimizer"), "beside 'state_dict_ema', which was taken")
    weights = load_trained(tmp_path / "out", "raw", torch.device("cpu")).model.state_dict()
    assert weights["classifier.bias"].dtype == torch.float32
    assert torch.equal(weights["stem.conv.conv.weight"], state["conv1.weight"].half().float())


class Malicious:
    """Runs a command where it is unpickled carelessly."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("old", [False, True])
def test_code_in_a_pickle_is_never_run(run, state: State, tmp_path: Path, old: bool) -> None:
    content = {**state, "extra": Malicious(tmp_path / "ran")}
    torch.save(content, tmp_path / "evil.pth", _use_new_zipfile_serialization=not old)
    refused(run(tmp_path / "evil.pth"), 5, "holds more than tensors", "would run code (posix.system)", "nothing of it was run")
    torch.load(tmp_path / "evil.pth", weights_only=False)
    assert (tmp_path / "ran").exists()  # the trap works: it is our reading that keeps it shut
    (tmp_path / "ran").unlink()
    run(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists() and not (tmp_path / "out").exists()


def test_a_whole_module_is_refused(run, tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "net.pt")
    refused(run(tmp_path / "net.pt"), 5, "torch.nn.modules.linear.Linear", "save only the state_dict")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 cut short", b"\x80\x02}q\x00", b"12345678{"])
def test_files_of_nothing(run, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    refused(run(tmp_path / "x.pth"), 5, str(tmp_path / "x.pth"))


def test_missing_files_and_folders(run, tmp_path: Path) -> None:
    refused(run(tmp_path / "nowhere.pth"), 5, "no file")
    refused(run(tmp_path), 5, "holds no TensorFlow checkpoint")
    torch.save([1, 2], tmp_path / "list.pth")
    refused(run(tmp_path / "list.pth"), 5, "is not a state_dict but list")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    refused(run(tmp_path / "empty.pth"), 5, "holds no tensors")


def test_every_tensor_that_does_not_fit_is_listed_and_nothing_written(run, state: State, tmp_path: Path) -> None:
    wrong = dict(state)
    del wrong["layer1.0.conv1.weight"], wrong["bn1.running_var"]
    wrong["conv1.weight"] = torch.zeros(64, 3, 3, 3)
    wrong["layer4.1.bn2.weight"] = torch.full((512,), float("nan"))
    wrong["layer5.0.conv1.weight"] = torch.zeros(2, 2)
    save_file(wrong, tmp_path / "wrong.safetensors")
    refused(
        run(tmp_path / "wrong.safetensors"),
        5,
        "2 missing, 2 wrong, 1 left over, 118 fit; nothing was written",
        "missing: stage_1.0.residual.conv_1.conv.weight 64 x 64 x 3 x 3 <- layer1.0.conv1.weight",
        "missing: stem.conv.norm.running_var 64 <- bn1.running_var",
        "wrong: stem.conv.conv.weight 64 x 3 x 7 x 7 <- conv1.weight 64 x 3 x 3 x 3",
        "wrong: stage_4.1.residual.conv_2.norm.weight <- layer4.1.bn2.weight: values that are not finite",
        "left over: layer5.0.conv1.weight 2 x 2",
    )
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))


def test_another_network_is_named(run, state: State, tmp_path: Path) -> None:
    save_file(state, tmp_path / "a.safetensors")
    refused(
        run(tmp_path / "a.safetensors", model="inception_v4_tf_slim"), 5, "no classifier of timm's inception_v4", "resnet_18"
    )
    refused(run(tmp_path / "a.safetensors", model="resnet_50"), 2, "another function", "use resnet_50_v1_5")
    refused(run(tmp_path / "a.safetensors", model="resnet18"), 2, "unknown model 'resnet18'", "resnet_18")
    refused(run(tmp_path / "a.safetensors", "--form", "tf-slim"), 2, "is a state dict of torch")


def test_class_names(run, state: State, tmp_path: Path) -> None:
    save_file(state, tmp_path / "a.safetensors")
    names = tmp_path / "names.txt"
    for content, said in (
        ("a\nb\n", "the file has 6 classes, --class-names 2"),
        ("a\nb\nb\nc\nd\ne\n", "names.txt:3: 'b' is there twice"),
        ("a\n\nc\nd\ne\nf\n", "names.txt:2: no name"),
    ):
        names.write_text(content)
        refused(run(tmp_path / "a.safetensors", "--class-names", names), 2, said)
    refused(run(tmp_path / "a.safetensors", "--class-names", tmp_path / "no.txt"), 2, "cannot read class names")
    refused(run(tmp_path / "a.safetensors", "--num-classes", "7"), 2, "the file has 6 classes, --num-classes 7")
    names.write_text("ant\nbée\ncat\ndog\nelk\nfox\n\n", encoding="utf-8")
    assert run(tmp_path / "a.safetensors", "--class-names", names).exit_code == 0
    assert load_trained(tmp_path / "out", "ema", torch.device("cpu")).classes == ("ant", "bée", "cat", "dog", "elk", "fox")


def test_an_occupied_folder_is_left_alone(run, state: State, tmp_path: Path) -> None:
    save_file(state, tmp_path / "a.safetensors")
    (tmp_path / "out").mkdir()
    assert run(tmp_path / "a.safetensors").exit_code == 0  # an empty one is as good as none
    before = (tmp_path / "out" / "import.json").read_bytes()
    refused(run(tmp_path / "a.safetensors"), 5, "is occupied", "--output")
    assert (tmp_path / "out" / "import.json").read_bytes() == before


def test_a_network_of_another_function_is_warned_of(run, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_model("inception_v3", num_classes=6)
    names = COUNTERPARTS["timm"]["inception_v3"].names()
    file = tmp_path / "v3.safetensors"
    save_file({str(their_tensor(names, name, "torch")): value for name, value in network.state_dict().items()}, file)
    answer = run(file, model="inception_v3")
    assert answer.exit_code == 0
    assert "warning: inception_v3 does not give the logits of timm's inception_v3: its average pools leave" in answer.stderr
    assert "use inception_v3_torchvision" in answer.stderr


def test_names_of_imagenet_are_sorted_synsets() -> None:
    names = imagenet_wnids()
    assert len(set(names)) == 1000 and names == sorted(names)
    assert all(len(name) == 9 and name[0] == "n" and name[1:].isdigit() for name in names)
    assert (names[0], names[-1]) == ("n01440764", "n15075141")  # tench, toilet paper


def test_every_counterpart_is_one_of_our_networks() -> None:
    assert {model for table in COUNTERPARTS.values() for model in table} <= set(MODELS)
