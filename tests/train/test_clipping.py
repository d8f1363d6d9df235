import pytest
import torch
from torch import Tensor, nn

from inceptionctl.train.engine import Clipping


class Network(nn.Module):
    """A convolution, a norm, a classifier and a convolution that starts at zero, with gradients of norms 0.5 and more."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.zero, self.classifier = nn.Conv2d(8, 8, 1, bias=False), nn.Linear(8, 4)
        nn.init.zeros_(self.zero.weight)
        for weight in self.parameters():
            weight.grad = 2.0 * torch.randn_like(weight)

    def gradients(self) -> list[Tensor]:
        return [weight.grad for weight in self.parameters() if weight.grad is not None]


@pytest.mark.parametrize("most", [0.5, 3.0, 1e9])
def test_the_global_norm_is_clipped_as_by_torch_to_the_bit(most: float) -> None:
    ours, theirs = Network(), Network()
    assert torch.equal(Clipping(most).clip_all(ours.parameters()), nn.utils.clip_grad_norm_(theirs.parameters(), most))
    assert all(map(torch.equal, ours.gradients(), theirs.gradients()))


@pytest.mark.parametrize("agc", [0.01, 0.2, 3.0])
def test_a_gradient_is_clipped_by_the_norm_of_its_weight(agc: float) -> None:
    ours, before, clipping = Network(), Network(), Clipping(None, agc)
    norm = clipping.clip_all(ours.parameters())
    assert torch.equal(norm, nn.utils.get_total_norm(before.gradients())), "what is told is the norm before"
    shares = []
    for weight, other in zip(ours.parameters(), before.parameters(), strict=True):
        assert weight.grad is not None and other.grad is not None
        smallest = 1e-3 if weight.ndim > 1 else 5.0 * weight.numel() ** 0.5
        most = agc * max(float(weight.detach().norm()), smallest)
        shares.append(float(other.grad.norm()) > most)
        assert float(weight.grad.norm()) == pytest.approx(min(most, float(other.grad.norm())), rel=1e-5)
        assert torch.nn.functional.cosine_similarity(weight.grad.flatten(), other.grad.flatten(), 0) == pytest.approx(1.0)
    assert clipping.clipped == pytest.approx(sum(shares) / len(shares))
    clipping.clip_all(before.parameters())
    assert clipping.clipped == pytest.approx(2 * sum(shares) / len(shares)), "summed up over steps"


@pytest.mark.parametrize(
    ("most", "agc", "passes"), [(0.0, 0.2, 0), (1e9, 0.2, 0), (None, 0.0, 0), (None, 1e9, 0), (0.5, 0.0, 1), (None, 1e-6, 1)]
)
def test_memory_is_written_only_when_something_is_clipped(most: float | None, agc: float, passes: int) -> None:
    network, clipping = Network(), Clipping(most, agc)
    versions = [gradient._version for gradient in network.gradients()]
    clipping.clip_all(network.parameters())
    assert [gradient._version for gradient in network.gradients()] == [one + passes for one in versions]
    assert clipping.clipped == passes


@pytest.mark.parametrize("most", [1.0, None])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_gradient_that_is_not_finite_shows(most: float | None, value: float) -> None:
    network, clipping = Network(), Clipping(most)
    network.conv.weight.grad[0, 0, 0, 0] = value  # type: ignore[index]
    assert not clipping.clip_all(network.parameters()).isfinite()
    assert network.conv.weight.grad.isnan().any()  # type: ignore[union-attr]
    assert clipping.clipped > 0.0


def test_weights_that_start_at_zero_move() -> None:
    network = Network()
    Clipping(None, 0.2).clip_all(network.parameters())
    zero, bias = network.zero.weight.grad, network.norm.bias.grad
    assert zero is not None and float(zero.norm()) == pytest.approx(0.2e-3, rel=1e-4)
    assert bias is not None and float(bias.norm()) == pytest.approx(8**0.5, rel=1e-4)
