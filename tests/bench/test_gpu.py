"""The benches on GPUs, each once; nothing is timed."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from inceptionctl.bench.waits import host_waits
from inceptionctl.distributed.local import visible_gpus
from tests.commands import inceptionctl, sets

pytestmark = pytest.mark.gpu

SMALL = sets("model.width=0.125", "model.input_px=75")


def test_a_step_on_a_gpu() -> None:
    done = inceptionctl(
        "bench", "step", "quickstart", *SMALL, "--micro-batch-size", "4", "--repeats", "1", "--steps", "2", "--json"
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["device"] == "cuda" and result["peak_memory_bytes"] >= result["torch_peak_memory_bytes"] > 0
    # Nothing in the loop waits but the row of metrics, if one has fallen due.
    waits = result["host_waits"]
    assert waits["steps"] == 5 and all("window.py" in place for place in waits["places"]), waits
    names = {figure["name"] for figure in result["figures"]}
    assert {"inceptionctl", "bare loop", "matrix product, fp32"} <= names


def test_a_step_compiled_and_as_cuda_graphs() -> None:
    words = ["--micro-batch-size", "4", "--repeats", "1", "--steps", "2", "--ways", "blocks,network/cuda-graphs", "--json"]
    done = inceptionctl("bench", "step", "quickstart", *SMALL, *words)
    assert done.returncode == 0, done.stderr
    names = {figure["name"] for figure in json.loads(done.stdout)["figures"]}
    assert {"bare loop, blocks compiled", "bare loop, network compiled, cuda-graphs"} <= names


def test_a_wait_for_the_gpu_is_counted_with_its_place() -> None:
    value = torch.ones(1, device="cuda")
    with host_waits() as found:
        value.item()
        torch.cuda.synchronize()
    value.item()
    assert found.total() == 2 and sum("test_gpu.py" in place for place in found) == 2, found


def test_timms_step_eager_and_compiled_on_a_gpu() -> None:
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed: scripts/environment does it")
    settings = sets("model.name=resnet_18", "model.input_px=64")
    arguments = ("--micro-batch-size", "8", "--repeats", "1", "--steps", "2", "--ways", "timm,timm-compiled", "--json")
    done = inceptionctl("bench", "step", "inception_v4", *settings, *arguments)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    names = {figure["name"] for figure in result["figures"] if figure["unit"] == "images/s"}
    assert names == {"inceptionctl", "bare loop", "timm", "timm, compiled"}
    best = [figure["name"] for figure in result["figures"] if "timm's best" in figure["name"]]
    assert len(best) == 1 and best[0].startswith("inceptionctl over timm's best (timm")
    assert "--torchcompile" in result["timm"]["flags"] and "--channels-last" in result["timm"]["flags"]


def test_a_profile_of_a_gpus_time(tmp_path: Path) -> None:
    arguments = (
        "--micro-batch-size",
        "4",
        "--repeats",
        "1",
        "--steps",
        "2",
        "--ways",
        "bare",
        "--profile",
        tmp_path / "a.json.gz",
        "--json",
    )
    done = inceptionctl("bench", "step", "quickstart", *SMALL, *arguments)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["profile"]
    groups = {cost["name"]: cost for cost in found["groups"]}
    assert found["of"] == "device" and found["steps"] == 10
    assert sum(cost["share"] for cost in groups.values()) == pytest.approx(100)
    wanted = {"convolution, forward", "convolution, backward", "batch norm, backward", "optimizer", "averages of the weights"}
    # A network so small leaves the GPU waiting for most of the step.
    assert wanted | {"the device waits for the host"} <= groups.keys()
    assert groups["convolution, backward"]["seconds"] > 0 and (tmp_path / "a.json.gz").stat().st_size > 0


def test_sums_between_gpus() -> None:
    if len(visible_gpus()) < 2:
        pytest.skip("needs two GPUs")
    done = inceptionctl("bench", "allreduce", "--gpus", "2", "--largest", "1", "--repeats", "2", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["backend"] == "nccl" and result["bytes_per_s"] > 0.0
