"""Which group an operator's time goes to, the names around the loop's calls, and a profile of the real loop as a user asks for it."""

import gzip
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.profiler import profile

from inceptionctl.bench.profile import group_of, ranges
from inceptionctl.models import build_model
from inceptionctl.train.engine import GradientAverage
from tests.commands import inceptionctl, refused, sets

SMALL = (
    "quickstart",
    *sets("model.width=0.125", "model.input_px=75"),
    "--micro-batch-size",
    "2",
    "--repeats",
    "1",
    "--ways",
    "bare",
)


@pytest.mark.parametrize(
    ("lineage", "group"),
    [
        (["aten::mkldnn_convolution", "aten::conv2d", "forward", "ProfilerStep*"], "convolution, forward"),
        (["aten::empty", "aten::mkldnn_convolution", "forward"], "convolution, forward"),
        (["aten::convolution_backward", "autograd::engine::evaluate_function: ConvolutionBackward0"], "convolution, backward"),
        (["aten::copy_", "aten::to", "aten::conv2d", "forward"], "casts and copies, forward"),
        (["CudnnBatchNormBackward0", "autograd::engine::evaluate_function: CudnnBatchNormBackward0"], "batch norm, backward"),
        (["aten::max_pool2d_with_indices_backward", "backward"], "pooling, backward"),
        (["aten::cat", "forward"], "concatenation, forward"),
        (["aten::_unheard_of", "forward"], "other operators, forward"),
        (["aten::_unheard_of", "UnheardOfBackward0", "backward"], "other operators, backward"),
        (["triton_poi_fused_relu_3", "Torch-Compiled Region: 0/0", "forward"], "compiled code, forward"),
        (["aten::mul_", "Optimizer.step#TensorFlowRMSProp.step", "engine.step"], "optimizer"),
        (["aten::linalg_vector_norm", "engine.step", "ProfilerStep*"], "norm, clipping and DeepSpeed's step"),
        (["aten::lerp_", "averages", "ProfilerStep*"], "averages of the weights"),
        (["aten::copy_", "torch::autograd::AccumulateGrad", "backward"], "gradients: kept, averaged over ranks"),
        (["c10d::allreduce_", "ranks", "backward"], "gradients: kept, averaged over ranks"),
        (["c10d::allreduce_", "statistics"], "batch-norm statistics and votes over ranks"),
        (["forward", "ProfilerStep*"], "Python between operators"),
        (["images", "ProfilerStep*"], "wait for images"),
        (["aten::nll_loss_forward", "ProfilerStep*"], "loss and the rest of the loop"),
    ],
)
def test_the_group_of_an_operator(lineage: list[str], group: str) -> None:
    assert group_of(lineage) == group


class Part:
    """Something with the methods that the loop calls."""

    def add(self, amount: int, *, twice: bool = False) -> int:
        torch.ones(2).add_(amount)
        return amount * 2 if twice else amount

    forward = backward = step = update = average = vote = add


def test_calls_have_names_while_it_is_profiled_and_are_as_before_afterwards() -> None:
    engine, finish = Part(), GradientAverage.finish
    job = SimpleNamespace(engine=engine, average=Part(), statistics=Part(), stop=Part())
    with profile() as profiler, ranges(job):
        assert engine.forward(3, twice=True) == 6
        engine.step(1)
        assert GradientAverage.finish is not finish
    names = [event.name for event in profiler.events()]
    assert names.count("forward") == names.count("engine.step") == 1
    add = next(event for event in profiler.events() if event.name == "aten::add_")
    assert add.cpu_parent.name == "forward"
    assert GradientAverage.finish is finish and vars(engine) == {}


@pytest.mark.slow
def test_a_step_of_the_real_loop(tmp_path: Path) -> None:
    trace = tmp_path / "trace.json.gz"
    done = inceptionctl("bench", "step", *SMALL, "--profile", trace, "--output", tmp_path / "a.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "a.json").read_text())["profile"]
    assert found["steps"] == 3 and found["of"] == "main thread"
    groups = {cost["name"]: cost for cost in found["groups"]}
    assert sum(cost["share"] for cost in groups.values()) == pytest.approx(100)
    assert sum(cost["seconds"] for cost in groups.values()) == pytest.approx(found["seconds_per_step"], rel=0.05)
    # Operators and the Python around them make up the whole: next to nothing is added at the end.
    assert groups["loss and the rest of the loop"]["operator"] == "Python"
    wanted = {f"{kind}, {way}" for kind in ("convolution", "batch norm", "ReLU", "pooling") for way in ("forward", "backward")}
    parts = {"optimizer", "averages of the weights", "norm, clipping and DeepSpeed's step", "wait for images"}
    assert wanted | parts <= groups.keys()
    # Each of the network's convolutions once a step, in both directions.
    with torch.device("meta"):
        modules = build_model("inception_v4", num_classes=2, width=0.125).modules()
    convolutions = sum(isinstance(module, nn.Conv2d) for module in modules)
    assert groups["convolution, backward"]["operator"] == "aten::convolution_backward"
    assert groups["convolution, backward"]["calls"] == pytest.approx(convolutions)
    assert [cost["seconds"] for cost in found["groups"]] == sorted((c["seconds"] for c in found["groups"]), reverse=True)
    assert "convolution, backward" in done.stdout and "the 10 dearest operators" in done.stdout
    assert "USDT" not in done.stderr and str(trace) in done.stderr
    names = {event["name"] for event in json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]}
    assert {"engine.step", "averages", "aten::convolution_backward"} <= names


def test_traces_that_cannot_be_written_are_refused_before_anything_runs(tmp_path: Path) -> None:
    def bench(file: Path) -> object:
        return inceptionctl("bench", "step", *SMALL, "--profile", file)

    refused(bench(tmp_path / "gone" / "a.json"), 4, "cannot write", "gone")
    refused(bench(tmp_path), 4, "cannot write")
    refused(bench(tmp_path / "a.txt"), 2, "a.txt", "name it a.json or a.json.gz")
    assert list(tmp_path.iterdir()) == []
