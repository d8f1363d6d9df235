"""The Triton model repository: its configuration as Triton's own protobuf reads it, against the ONNX file beside it; and as served."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from google.protobuf import text_format
from onnx import TensorProto, helper
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput, model_config_pb2
from tritonclient.utils import InferenceServerException
from typer.testing import CliRunner

from inceptionctl.cli import app
from inceptionctl.errors import CheckpointError
from inceptionctl.evaluate.trained import load_trained
from inceptionctl.export.to_triton import TritonTensor, ask_triton, tensors
from inceptionctl.run import Run
from tests.evaluate.making import CLASSES, INPUT_PX

MODEL = "triton/inception_v4/1/model.onnx"


@pytest.fixture(scope="module")
def place(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports")
    answer = CliRunner().invoke(app, ["export", str(run.path), "--format", "triton", "--output", str(folder), "--json"])
    assert answer.exit_code == 0, answer.output
    (item,) = json.loads(answer.stdout)["exports"]
    assert item["path"] == str(folder / MODEL) and item["max_difference"] < 1e-4
    assert "config.pbtxt was read by Triton's client" in item["remarks"][0]
    return folder


@pytest.fixture
def copy(place: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(place, tmp_path / "copy"))


def test_what_lies_there(place: Path) -> None:
    found = sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.is_file())
    assert found == ["README.md", MODEL, "triton/inception_v4/config.pbtxt", "triton/inception_v4/labels.txt"]
    card = (place / "README.md").read_text()
    assert "tritonserver --model-repository=triton" in card
    assert all(f"| `{name}` |" in card for name in found[1:])


def test_the_configuration_is_the_files(place: Path) -> None:
    folder = place / "triton" / "inception_v4"
    config = text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    assert (config.name, config.platform, config.backend) == (folder.name, "onnxruntime_onnx", "onnxruntime")
    assert config.max_batch_size == 10  # the recipe's evaluate.batch_size
    assert (
        config.HasField("dynamic_batching") and config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_AUTO
    )
    session = onnxruntime.InferenceSession(str(place / MODEL), providers=["CPUExecutionProvider"])
    (given,), (asked,) = session.get_inputs(), session.get_outputs()
    (told,), (answered,) = config.input, config.output
    assert (told.name, [*told.dims], told.data_type) == (given.name, [3, INPUT_PX, INPUT_PX], model_config_pb2.TYPE_FP32)
    assert (answered.name, [*answered.dims], answered.data_type) == (asked.name, [len(CLASSES)], model_config_pb2.TYPE_FP32)
    assert (
        given.type == asked.type == "tensor(float)" and given.shape[1:] == [*told.dims] and asked.shape[1:] == [*answered.dims]
    )
    assert (folder / answered.label_filename).read_text().splitlines() == list(CLASSES)


def test_the_file_answers_as_the_checkpoint_does(place: Path, run: Run) -> None:
    images = torch.rand(config_batch := 10, 3, INPUT_PX, INPUT_PX, generator=torch.Generator().manual_seed(3)) * 2 - 1
    session = onnxruntime.InferenceSession(str(place / MODEL), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"images": images.numpy()})
    with torch.no_grad():
        expected = load_trained(run.path, "ema", torch.device("cpu")).model(images).numpy()
    assert logits.shape == (config_batch, len(CLASSES)) and np.abs(logits - expected).max() < 1e-3


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("75, 75", "75, 76", "the ONNX file has other tensors"),
        ("TYPE_FP32", "TYPE_FP16", "the ONNX file has other tensors"),
        ('"images"', '"image"', "the ONNX file has other tensors"),
        ("max_batch_size", "max_batch", "Triton's client does not read config.pbtxt"),
    ],
)
def test_a_configuration_that_is_not_the_files_is_refused(old: str, new: str, said: str, copy: Path) -> None:
    config = copy / "triton" / "inception_v4" / "config.pbtxt"
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))
    with pytest.raises(CheckpointError, match=said):
        ask_triton(copy / MODEL)


def test_without_tritons_client_it_is_said(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tritonclient.grpc", None)
    name, logits = ask_triton(place / MODEL)
    assert "config.pbtxt was not read by Triton's client: `pip install 'inceptionctl[triton]'`" in name
    assert logits(torch.zeros(2, 3, INPUT_PX, INPUT_PX)).shape == (2, len(CLASSES))


def small(shape: list[int | str | None], kind: int) -> bytes:
    given, asked = (helper.make_tensor_value_info(name, kind, shape) for name in ("a", "b"))
    return helper.make_model(
        helper.make_graph([helper.make_node("Identity", ["a"], ["b"])], "g", [given], [asked])
    ).SerializeToString()


def test_other_tensors_are_told_as_they_are() -> None:
    (given,), (asked,) = tensors(small(["batch", "height", None, 3], TensorProto.UINT8))
    assert given == TritonTensor("a", "TYPE_UINT8", [-1, -1, 3])
    assert asked.data_type == "TYPE_UINT8"
    with pytest.raises(CheckpointError, match="fixed batch"):
        tensors(small([2, 3], TensorProto.FLOAT))


def test_predictions_come_from_it_too(place: Path, data: Path) -> None:
    answer = CliRunner().invoke(app, ["predict", str(place / MODEL), str(data / "val" / "dog" / "0.jpg"), "--json"])
    assert answer.exit_code == 0, answer.output
    assert len(json.loads(answer.stdout)["predictions"][0]["classes"]) == 5


SERVER = shutil.which("tritonserver")
BACKENDS = Path(os.environ.get("TRITON_BACKENDS", "/opt/tritonserver/backends"))
needs_a_server = pytest.mark.skipif(
    SERVER is None or not (BACKENDS / "onnxruntime").is_dir(),
    reason=f"needs tritonserver on PATH and its onnxruntime backend in TRITON_BACKENDS (now {BACKENDS})",
)


@pytest.fixture(scope="module")
def client(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferenceServerClient]:
    """Of a real server that serves the repository as it was written."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("triton") / "log.txt"
    asked = ["--model-repository", place / "triton", "--backend-directory", BACKENDS, "--grpc-address", "127.0.0.1"]
    off = ["--allow-http", "false", "--allow-metrics", "false"]
    with log.open("w") as stream:
        server = subprocess.Popen([SERVER or "", *asked, "--grpc-port", str(port), *off], stdout=stream, stderr=stream)
    try:
        client = InferenceServerClient(f"127.0.0.1:{port}")
        while not ready(client):
            assert server.poll() is None, log.read_text()
            time.sleep(0.2)
        yield client
    finally:
        server.terminate()
        server.wait()


def ready(client: InferenceServerClient) -> bool:
    try:
        return bool(client.is_server_ready())
    except InferenceServerException:
        return False


def served(client: InferenceServerClient, images: np.ndarray, classes: int = 0) -> np.ndarray:
    """The server's answer for images; with `classes`, that many bytes `LOGIT:INDEX:NAME` an image."""
    given = InferInput("images", [*images.shape], "FP32")
    given.set_data_from_numpy(images)
    asked = InferRequestedOutput("logits", class_count=classes)
    answer: np.ndarray = client.infer("inception_v4", [given], outputs=[asked]).as_numpy("logits")
    return answer


@pytest.mark.slow
@needs_a_server
def test_the_real_server_answers_as_onnxruntime_does(client: InferenceServerClient, place: Path) -> None:
    images = np.random.default_rng(3).uniform(-1, 1, (10, 3, INPUT_PX, INPUT_PX)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(place / MODEL), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"images": images})
    np.testing.assert_allclose(served(client, images), expected, atol=1e-5)

    with ThreadPoolExecutor(10) as threads:
        singly = [*threads.map(lambda image: served(client, image[None]), images)]
    np.testing.assert_allclose(np.concatenate(singly), expected, atol=1e-5)

    (best,) = served(client, images[:1], classes=1)[0]
    assert best.decode().split(":")[1:] == [str(expected[0].argmax()), CLASSES[expected[0].argmax()]]
    with pytest.raises(InferenceServerException, match="batch-size must be <= 10"):
        served(client, np.concatenate([images, images]))
