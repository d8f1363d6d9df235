"""Compiled passes against the same ones that are not: real torch.compile, with its C++ compiler."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo.utils import counters

from inceptionctl.models import build_model
from inceptionctl.recipe.schema import HealthSection
from inceptionctl.train.optim import WeightAverage
from inceptionctl.train.step import HealthWatch
from inceptionctl.train.torch_compile import compile_network, compiled_blocks
from tests.commands import environment, inceptionctl, refused, rows, sets
from tests.data.conftest import two_classes

# Raised inside torch's compiler, at its import and where it looks at the input of a block; users never see them.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]

SMALL = (
    "model.name=resnet_18",
    "model.num_classes=2",
    "model.width=0.125",
    "model.input_px=64",
    "train.global_batch_size=8",
    "train.micro_batch_size=8",
    "train.precision=fp32",
    "train.log_every_steps=1",
    "evaluate.every_epochs=null",
    "checkpoint.every_steps=2",
)


# What the heartbeat says while a pass is made, of the first and the later steps of two micro batches each.
RANK = """
import json, sys
import torch
from pathlib import Path
from inceptionctl.bench.turns import Turns, make_job, run_loop
from inceptionctl.bench.step_rate import random_batch
from inceptionctl.distributed.exit import leave
from inceptionctl.distributed.local import free_port
from inceptionctl.distributed.signals import RankSignals
from inceptionctl.distributed.world import World
from inceptionctl.recipe import load_recipe
from inceptionctl.distributed.session import session

recipe = load_recipe("quickstart", json.loads(sys.argv[1]))
with session(World(0, 1, 0, 1, "127.0.0.1", free_port())) as joined:
    job = make_job(joined, recipe, Path(sys.argv[2]), RankSignals(speaks=True))
    said, batch = [], random_batch(job)
    job.engine.model.register_forward_pre_hook(lambda *_: said.append(joined.heartbeat._state))
    batches = iter([batch] * 4)
    run_loop(job, Turns({"noise": batches}, [], passes=2, repeats=1, together=lambda: None, requested=lambda: None))
print(json.dumps([*said, torch.backends.cudnn.benchmark]))
leave(0)
"""


def train(root: Path, run: Path, steps: int, *settings: str, **variables: str) -> None:
    words = ["--cpu-ranks", "1", *sets(*SMALL, f"data.root={root}", f"train.max_steps={steps}", *settings)]
    done = inceptionctl("train", "quickstart", "--output", run, *words, **variables)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """29 training images in 2 classes."""
    return two_classes(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def plain(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps, nothing compiled."""
    run = tmp_path_factory.mktemp("plain") / "run"
    train(root, run, 4)
    return run


@pytest.mark.slow
@pytest.mark.parametrize("what", ["blocks", "network"])
def test_a_compiled_training_is_the_same_training(root: Path, plain: Path, tmp_path: Path, what: str) -> None:
    """Dropout and all; the watch sees the same; and the command ends by itself, whatever threads the compiler has left."""
    run = tmp_path / "run"
    train(root, run, 2, f"train.compile={what}")
    # Whether to compile is no part of what is trained: a run may change it from start to start.
    train(root, run, 4, f"train.compile={what}")
    for found, wanted in zip(rows(run), rows(plain), strict=True):
        # Rounding grows from step to step; other masks of dropout would change the first loss by tenths.
        assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-5 if found["step"] == 1 else 1e-2)
        assert found["grad_norm"] == pytest.approx(wanted["grad_norm"], rel=1e-2)
        assert found["zero_share"] == pytest.approx(wanted["zero_share"], abs=0.01)
    other = load_file(plain / "checkpoints" / "step-00000004" / "ema.safetensors")
    for name, tensor in load_file(run / "checkpoints" / "step-00000004" / "ema.safetensors").items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-2, atol=1e-2)


@pytest.mark.slow
def test_a_compiled_run_goes_on_bit_for_bit(root: Path, tmp_path: Path) -> None:
    train(root, tmp_path / "whole", 4, "train.compile=blocks")
    for steps in (2, 4):
        train(root, tmp_path / "cut", steps, "train.compile=blocks")
    files = [tmp_path / run / "checkpoints" / "step-00000004" / "model.safetensors" for run in ("whole", "cut")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.slow
def test_ranks_compile_and_wait_for_nobody(tmp_path: Path) -> None:
    """Else a rank that compiles for ten minutes would be taken for one that waits in vain, and ended."""
    settings = [*SMALL, "train.micro_batch_size=4", "train.compile=blocks", "train.cudnn_benchmark=true"]
    done = subprocess.run(
        [sys.executable, "-c", RANK, json.dumps(settings), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        env=environment() | {"DS_ACCELERATOR": "cpu"},
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == ["compiles", "trains", "trains", "trains", True]


@pytest.mark.slow
def test_without_a_compiler(root: Path, tmp_path: Path) -> None:
    words = ["--cpu-ranks", "2", *sets(*SMALL, f"data.root={root}", "train.compile=blocks")]
    # Nothing compiled before, and no compiler.
    broken = {"CXX": str(tmp_path / "gone"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    ended = inceptionctl("train", "quickstart", "--output", tmp_path / "run", *words, **broken)
    refused(ended, 4, "there is no", "gone", "train.compile to none", "g++")
    assert ended.stderr.count("error: ") == 1
    # One that is there and compiles nothing is only found out when it is asked to.
    ended = inceptionctl("train", "quickstart", "--output", tmp_path / "run", *words, **broken | {"CXX": "false"})
    refused(ended, 4, "torch.compile failed", "train.compile to none", "g++")
    train(root, tmp_path / "run", 1, "train.compile=none")


@pytest.mark.slow
def test_blocks_that_are_alike_are_compiled_once() -> None:
    torch.compiler.reset()
    counters.clear()
    torch.manual_seed(0)
    model = build_model("resnet_18", num_classes=3, width=0.125, dropout=0.0).train()
    average = WeightAverage(model, 0.9)
    watch = HealthWatch(model, HealthSection())
    images = torch.randn(2, 3, 32, 32)
    wanted = model(images)
    compile_network(model, "blocks")
    for listening in (True, False):
        watch.listen(listening)
        torch.testing.assert_close(model(images), wanted, rtol=1e-4, atol=1e-4)
    # The convolution of the stem; of the first grid's two blocks one; of each of three others one that halves it and one that does not.
    assert counters["stats"]["unique_graphs"] == 8
    assert len(compiled_blocks(model)) == 9
    assert list(model.state_dict()) == list(average.model.state_dict())
    calls = counters["stats"]["calls_captured"]
    average.model(images)
    assert counters["stats"]["calls_captured"] == calls


@pytest.mark.slow
def test_a_network_is_one_graph_with_its_watch() -> None:
    torch.compiler.reset()
    counters.clear()
    model = build_model("resnet_18", num_classes=3, width=0.125).train()
    watch = HealthWatch(model, HealthSection(), always=True)
    compile_network(model, "network")
    for wanted in (True, False, True):
        watch.listen(wanted)
        model(torch.randn(2, 3, 32, 32))
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]
    assert len(watch.numbers()) == 1 + len(watch.health([0.0] * len(watch.numbers())).activation_rms)
