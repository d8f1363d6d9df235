"""Gradients summed bucket by bucket beside the backward pass, in two real ranks against torch alone with the batch as one."""

import pytest
import torch
from torch import nn

from inceptionctl.train.engine import BUCKET_BYTES, GradientAverage, _parts
from tests.commands import environment
from tests.forked import run_ranks

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


def as_rank() -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
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
    ended = run_ranks("from tests.train.test_gradient_average import as_rank; as_rank()", 2, environment=environment())
    assert [rank.returncode for rank in ended] == [0, 0], ended


@pytest.mark.parametrize(("most", "expected"), [(1, 4), (40, 2), (10**6, 1)])
def test_buckets(most: int, expected: int) -> None:
    weights = [nn.Parameter(torch.zeros(count)) for count in (5, 5, 3, 1)]
    parts = list(_parts(weights, most))
    assert len(parts) == expected and [weight for part in parts for weight in part] == weights
