import statistics

import pytest
import torch
from torch import nn

from inceptionctl.train.clipping import MEDIAN_STEPS, Clipping


def gradients(factor: float = 1.0) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [factor * torch.randn(4, 5), factor * torch.randn(7)]


def norm_after(clipping: Clipping, norm: float) -> float:
    """The norm that is left of a gradient of the norm `norm`."""
    gradient = [torch.full((4,), norm / 2.0)]
    clipping.clip(gradient, nn.utils.get_total_norm(gradient))
    return float(nn.utils.get_total_norm(gradient))


@pytest.mark.parametrize("most", [0.5, 3.0, 1e9])
def test_clipping_is_torchs_to_the_bit(most: float) -> None:
    own, weights = gradients(), [nn.Parameter(torch.zeros_like(one)) for one in gradients()]
    for weight, gradient in zip(weights, gradients(), strict=True):
        weight.grad = gradient
    norm = nn.utils.get_total_norm(own)
    Clipping(most).clip(own, norm)
    assert torch.equal(norm, nn.utils.clip_grad_norm_(weights, most))
    assert all(torch.equal(one, weight.grad) for one, weight in zip(own, weights, strict=True))


@pytest.mark.parametrize(("most", "passes"), [(0.0, 0), (1e9, 0), (0.5, 1), (None, 0)])
def test_memory_is_written_only_when_something_is_clipped(most: float | None, passes: int) -> None:
    own, clipping = gradients(), Clipping(most)
    clipping.clip(own, nn.utils.get_total_norm(own))
    assert [one._version for one in own] == [passes, passes]
    assert clipping.num_clipped == passes


@pytest.mark.parametrize("most", [1.0, None])
def test_a_gradient_that_is_not_finite_shows_in_all(most: float | None) -> None:
    own, clipping = gradients(), Clipping(most)
    clipping.clip(gradients(), nn.utils.get_total_norm(own))
    own[0][0, 0] = float("inf")
    clipping.clip(own, nn.utils.get_total_norm(own))
    assert own[0][0, 0].isnan()


def test_a_norm_is_measured_by_the_median_of_those_before_it() -> None:
    clipping, norms = Clipping(None, 3.0), [5000.0, 300.0, 20.0, *(2.0 + 0.01 * step for step in range(100))]
    for norm in norms:
        assert norm_after(clipping, norm) == pytest.approx(norm, rel=1e-6), "nothing to clip"
    middle = statistics.median_low(norms[-MEDIAN_STEPS:])
    assert norm_after(clipping, 1000.0) == pytest.approx(3.0 * middle, rel=1e-4)
    assert norm_after(clipping, 3.0 * middle) == pytest.approx(3.0 * middle, rel=1e-4), "the spike has not moved the median"
    assert clipping.num_clipped == 1


def test_a_norm_that_has_risen_for_good_becomes_the_rule() -> None:
    clipping = Clipping(None, 2.0)
    left = [norm_after(clipping, norm) for norm in [1.0] * MEDIAN_STEPS + [100.0] * MEDIAN_STEPS]
    assert left[MEDIAN_STEPS] == pytest.approx(2.0, rel=1e-4) and left[-1] == pytest.approx(100.0)


def test_gradients_of_zero_do_not_stop_a_training() -> None:
    clipping = Clipping(None, 2.0)
    assert [norm_after(clipping, norm) for norm in (0.0, 0.0, 1.0)] == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("steps", [0, 1, 10, MEDIAN_STEPS, MEDIAN_STEPS + 7, 3 * MEDIAN_STEPS])
def test_a_clipping_goes_on_from_its_state(steps: int) -> None:
    norms = torch.distributions.LogNormal(0.0, 2.0).sample((steps + 80,)).tolist()
    one, other = Clipping(None, 1.5), Clipping(None, 1.5)
    for norm in norms[:steps]:
        norm_after(one, norm)
    other.restore(one.state, torch.device("cpu"))
    assert len(one.state) == min(steps, MEDIAN_STEPS)
    assert [norm_after(one, norm) for norm in norms[steps:]] == [norm_after(other, norm) for norm in norms[steps:]]
