"""Gradients summed bucket by bucket beside the backward pass, in two real ranks against torch alone with the batch as one."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from inceptionctl.launch.local import free_port
from inceptionctl.train.averaging import BUCKET_BYTES, GradientAverage, _parts
from tests.commands import environment

# Every weight of its own bucket, some of a few together, and all in one.
SIZES = (1, 5000, BUCKET_BYTES)


def network() -> nn.Module:
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    head = nn.Linear(8 * 6 * 6, 5)
    model = nn.ModuleDict({"convolution": convolution, "head": head, "other": nn.Linear(3, 3)})
    model["frozen"] = nn.Linear(2, 2).requires_grad_(False)
    return model


def loss_of(model: nn.Module, images: torch.Tensor, scale: float) -> torch.Tensor:
    features = model["convolution"](images).flatten(1)  # type: ignore[operator,index]
    return scale * model["head"](features).square().mean()  # type: ignore[operator,index]


def images() -> torch.Tensor:
    return torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1)).to(memory_format=torch.channels_last)


def check(model: nn.Module) -> None:
    whole = network()
    loss_of(whole, images(), 1.0).backward()
    for (name, one), other in zip(model.named_parameters(), whole.parameters(), strict=True):
        if name.startswith("other"):
            assert one.grad is not None and not one.grad.any()
        elif name.startswith("frozen"):
            assert one.grad is None
        else:
            assert one.grad is not None and other.grad is not None and one.grad.stride() == one.stride()
            assert float((one.grad - other.grad).abs().max()) < 1e-6, name


def as_rank(rank: int, port: int) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    half = images()[4 * rank : 4 * rank + 4]
    for size in SIZES:
        model = network()
        average = GradientAverage(model.parameters(), 2, size)
        for _ in range(2):  # steps: the second with what the first has left in the buckets
            model.zero_grad(set_to_none=True)
            loss_of(model, half, 0.25).backward()  # a micro batch before the last: nobody is asked
            assert model["convolution"].weight.grad.shape == (8, 3, 3, 3)  # type: ignore[index,union-attr]
            average.begin()
            loss_of(model, half, 0.75).backward()
            average.finish()
            check(model)
    torch.distributed.destroy_process_group()


def test_two_ranks_have_the_gradients_of_the_whole_batch() -> None:
    port = free_port()
    command = [sys.executable, "-m", "tests.train.test_averaging"]
    root = Path(__file__).parents[2]
    ranks = [
        subprocess.Popen([*command, str(rank), str(port)], cwd=root, env=environment(), stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    said = [rank.communicate(timeout=300)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said


@pytest.mark.parametrize(("most", "expected"), [(1, 4), (40, 2), (10**6, 1)])
def test_buckets(most: int, expected: int) -> None:
    weights = [nn.Parameter(torch.zeros(count)) for count in (5, 5, 3, 1)]
    parts = list(_parts(weights, most))
    assert len(parts) == expected and [weight for part in parts for weight in part] == weights


if __name__ == "__main__":
    as_rank(int(sys.argv[1]), int(sys.argv[2]))
