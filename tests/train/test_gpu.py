"""What only a GPU can show. Deselected by scripts/test; run with `python -m pytest -m gpu`."""

from pathlib import Path

import pytest
import torch

from tests.commands import TINY, inceptionctl, rows, sets

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
    from inceptionctl.launch.local import free_port
    from inceptionctl.launch.world import World
    from inceptionctl.train import engine as distributed
    from inceptionctl.train.batch import plan_batch
    from inceptionctl.train.clipping import Clipping
    from inceptionctl.train.precision import autocast

    device = torch.device("cuda", 0)
    distributed.connect(World(0, 1, 0, 1, "127.0.0.1", free_port()), device)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)).to(device)
    config = distributed.deepspeed_config(plan_batch(2, 1, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    engine = distributed.Engine(model, optimizer, config, clipping=Clipping(1.0), channels_last=True)
    with autocast("bf16", device):
        assert engine.forward(torch.randn(2, 3, 8, 8, device=device)).dtype == torch.bfloat16
    distributed.disconnect()


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
