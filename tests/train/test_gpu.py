"""What only a GPU can show. Deselected by scripts/test; run with `python -m pytest -m gpu`."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from inceptionctl.distributed.local import free_port
from tests.commands import TINY, environment, inceptionctl, rows, sets

pytestmark = pytest.mark.gpu


def test_trains_on_a_gpu_and_goes_on(root: Path, tmp_path: Path) -> None:
    settings = sets(*TINY, "model.num_classes=3", f"data.root={root}", "train.precision=bf16", "data.decode=mixed")
    for most in (2, 4):
        result = inceptionctl(
            "train", "inception_v4", *settings, *sets(f"train.max_steps={most}"), "--gpus", "1", "--output", "run", cwd=tmp_path
        )
        assert result.returncode == 0, result.stderr
    found = rows(tmp_path / "run")
    assert [row["step"] for row in found] == [1, 2, 3, 4]
    # DALI's memory and the CUDA context are in the one and not in the other.
    assert all(row["peak_memory_bytes"] > row["torch_peak_memory_bytes"] > 0 for row in found)


@pytest.mark.parametrize("what", ["blocks", "network"])
def test_a_compiled_training_on_a_gpu_is_the_same_training(root: Path, tmp_path: Path, what: str) -> None:
    settings = sets(*TINY, "model.num_classes=3", f"data.root={root}", "train.max_steps=2", "evaluate.every_epochs=null")
    for name in ("none", what):
        result = inceptionctl(
            "train",
            "quickstart",
            "--set=model.name=resnet_18",
            *settings,
            f"--set=train.compile={name}",
            "--gpus",
            "1",
            "--output",
            name,
            cwd=tmp_path,
        )
        assert result.returncode == 0, result.stderr
    (plain, *_), (compiled, *_) = rows(tmp_path / "none"), rows(tmp_path / what)
    assert compiled["loss"] == pytest.approx(plain["loss"], rel=1e-3)
    assert compiled["zero_share"] == pytest.approx(plain["zero_share"], abs=0.01)


def test_bf16_reaches_the_convolutions_under_deepspeed() -> None:
    from inceptionctl.distributed import process_group
    from inceptionctl.distributed.local import free_port
    from inceptionctl.distributed.world import World
    from inceptionctl.train.batch import plan_batch
    from inceptionctl.train.engine import Clipping, Engine, deepspeed_config
    from inceptionctl.train.step import autocast

    device = torch.device("cuda", 0)
    process_group.connect(World(0, 1, 0, 1, "127.0.0.1", free_port()), device)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)).to(device)
    config = deepspeed_config(plan_batch(2, 1, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    engine = Engine(model, optimizer, config, clipping=Clipping(1.0), channels_last=True)
    with autocast("bf16", device):
        assert engine.forward(torch.randn(2, 3, 8, 8, device=device)).dtype == torch.bfloat16
    process_group.disconnect()


def test_cpu_ranks_stay_on_the_cpu_beside_a_gpu(root: Path, tmp_path: Path) -> None:
    settings = sets(*TINY, "model.num_classes=3", f"data.root={root}", "train.max_steps=1")
    result = inceptionctl("train", "inception_v4", *settings, "--cpu-ranks", "2", "--output", "run", cwd=tmp_path)
    assert result.returncode == 0 and "on CPU" in result.stderr, result.stderr


def test_foreach_rmsprop_equals_the_loop() -> None:
    from inceptionctl.train import optim

    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(7, 5, 3, 3)) for _ in range(4)]
    copies = [torch.nn.Parameter(weight.detach().cuda()) for weight in weights]
    loop = optim.TensorFlowRMSProp(weights, 0.045, momentum=0.9, weight_decay=0.01)
    fused = optim.TensorFlowRMSProp(copies, 0.045, momentum=0.9, weight_decay=0.01)
    for _ in range(50):
        for weight, copy in zip(weights, copies, strict=True):
            weight.grad = torch.randn_like(weight)
            copy.grad = weight.grad.cuda()
        loop.step()
        fused.step()
    for weight, copy in zip(weights, copies, strict=True):
        assert torch.allclose(weight, copy.cpu(), atol=1e-6)


def test_gradients_averaged_beside_the_pass_are_those_of_the_pass() -> None:
    """Over NCCL, in a group of one: its mean is what it is alone, whatever streams the sums are on."""
    from inceptionctl.train.engine import GradientAverage
    from tests.train.test_gradient_average import images, loss_of, network

    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
    try:
        plain, averaged = network().cuda(), network().cuda()
        average = GradientAverage(averaged.parameters(), 1)
        for _ in range(3):
            for model in (plain, averaged):
                model.zero_grad()
            loss_of(plain, images().cuda(), 1.0).backward()
            average.begin()
            loss_of(averaged, images().cuda(), 1.0).backward()
            average.finish()
            for one, other in zip(averaged.parameters(), plain.parameters(), strict=True):
                if other.grad is not None:
                    torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)
    finally:
        dist.destroy_process_group()


# NCCL refuses two ranks of one GPU; gloo sums their tensors through the host.
OVER_GLOO = """
import sys
import deepspeed
start = deepspeed.init_distributed
deepspeed.init_distributed = lambda backend, **options: start("gloo", **options)
sys.argv[0] = "inceptionctl"
from inceptionctl.cli import main
main()
"""


def test_two_ranks_on_a_gpu_train_as_one_does(root: Path, tmp_path: Path) -> None:
    """What only several ranks do with tensors on a GPU, where there is one GPU alone: the micro batches are the same, and the losses."""
    # A step that makes no more of rounding than there is: an epsilon that damps it, and no network whose gradients explode.
    steps = ("model.name=resnet_18", "optim.epsilon=1.0", "schedule.base_lr=0.01", "train.max_steps=3")
    rest = ("model.num_classes=3", f"data.root={root}", "data.decode=cpu", "evaluate.every_epochs=null")
    settings = sets(*TINY, *steps, *rest)
    for size in (1, 2):
        command = [
            sys.executable,
            "-P",
            "-c",
            OVER_GLOO,
            "train",
            "quickstart",
            *settings,
            "--output",
            str(tmp_path / f"{size}"),
        ]
        port = str(free_port())
        ranks = []
        for rank in range(size):
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
            meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "DS_ACCELERATOR": "cuda", "CUDA_VISIBLE_DEVICES": "0"}
            ranks.append(
                subprocess.Popen(command, env=environment() | place | meeting, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
            )
        said = [process.communicate(timeout=300)[1] for process in ranks]
        assert [process.returncode for process in ranks] == [0] * size, "\n".join(said)
    alone, shared = ([row["loss"] for row in rows(tmp_path / name)] for name in "12")
    assert len(alone) == 3 and shared == pytest.approx(alone, rel=1e-3)
