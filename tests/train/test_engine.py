import pytest
import torch
from torch import nn

from inceptionctl.train.engine import clip_gradients


def gradients(factor: float = 1.0) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [factor * torch.randn(4, 5), factor * torch.randn(7)]


@pytest.mark.parametrize("most", [0.5, 3.0, 1e9])
def test_clipping_is_torchs_to_the_bit(most: float) -> None:
    own, weights = gradients(), [nn.Parameter(torch.zeros_like(one)) for one in gradients()]
    for weight, gradient in zip(weights, gradients(), strict=True):
        weight.grad = gradient
    norm = nn.utils.get_total_norm(own)
    clip_gradients(own, norm, most)
    assert torch.equal(norm, nn.utils.clip_grad_norm_(weights, most))
    assert all(torch.equal(one, weight.grad) for one, weight in zip(own, weights, strict=True))


@pytest.mark.parametrize(("most", "passes"), [(0.0, 0), (1e9, 0), (0.5, 1)])
def test_memory_is_written_only_when_something_is_clipped(most: float, passes: int) -> None:
    own = gradients()
    clip_gradients(own, nn.utils.get_total_norm(own), most)
    assert [one._version for one in own] == [passes, passes]


def test_a_gradient_that_is_not_finite_shows_in_all() -> None:
    own = gradients()
    own[0][0, 0] = float("nan")
    clip_gradients(own, nn.utils.get_total_norm(own), 1.0)
    assert all(one.isnan().all() for one in own)
