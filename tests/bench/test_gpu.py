"""The benches on GPUs, each once; nothing is timed."""

import json

import pytest

from inceptionctl.launch.local import visible_gpus
from tests.commands import inceptionctl, sets

pytestmark = pytest.mark.gpu

SMALL = sets("model.width=0.125", "model.input_px=75")


def test_a_step_on_a_gpu() -> None:
    done = inceptionctl("bench", "step", "quickstart", *SMALL, "--images", "4", "--repeats", "1", "--steps", "2", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["device"] == "cuda" and result["peak_memory_bytes"] > 0
    names = {figure["name"] for figure in result["figures"]}
    assert {"inceptionctl", "bare loop", "matrix product, fp32"} <= names


def test_a_step_compiled_in_each_way_on_a_gpu() -> None:
    """CUDA graphs too."""
    words = ["--images", "4", "--repeats", "1", "--steps", "2", "--loops-only", "--compiled", "--json"]
    done = inceptionctl("bench", "step", "quickstart", *SMALL, *words)
    assert done.returncode == 0, done.stderr
    names = {figure["name"] for figure in json.loads(done.stdout)["figures"]}
    ways = ("blocks compiled", "network compiled", "blocks compiled, max-autotune", "network compiled, max-autotune")
    assert {f"bare loop, {way}" for way in (*ways, "network compiled, cuda-graphs")} <= names


def test_sums_between_gpus() -> None:
    if len(visible_gpus()) < 2:
        pytest.skip("needs two GPUs")
    done = inceptionctl("bench", "allreduce", "--gpus", "2", "--largest", "1", "--repeats", "2", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["backend"] == "nccl" and result["bytes_per_s"] > 0.0
