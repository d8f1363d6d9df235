import numpy as np
import pytest
import torch
from torch import nn

from inceptionctl.errors import RecipeError
from inceptionctl.models import build_model
from inceptionctl.train import optim
from inceptionctl.train.optim import TensorFlowRMSProp, build_optimizer, described_optimizer, parameter_groups, state_names


def transcribed(
    w: np.ndarray, gradients: list[np.ndarray], *, lr: float, rho: float, mu: float, eps: float, l2: float, centered: bool
) -> np.ndarray:
    """TensorFlow's ApplyRMSProp / ApplyCenteredRMSProp, line by line, in float64."""
    w = w.astype(np.float64)
    ms, mg, mom = np.ones_like(w), np.zeros_like(w), np.zeros_like(w)
    for gradient in gradients:
        g = gradient + l2 * w
        ms = rho * ms + (1 - rho) * g * g
        if centered:
            mg = rho * mg + (1 - rho) * g
        mom = mu * mom + lr * g / np.sqrt(ms - mg * mg + eps)
        w = w - mom
    return w


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize(("epsilon", "l2"), [(1.0, 0.0), (1e-3, 0.01)])
def test_100_steps_equal_tensorflows_formula(
    momentum: float, centered: bool, foreach: bool, epsilon: float, l2: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    if foreach:  # the form that GPUs use, run here on the CPU
        monkeypatch.setattr(optim, "_update_one_by_one", optim._update_foreach)
    rng = np.random.default_rng(0)
    start = rng.normal(size=(3, 4, 5))
    gradients = [rng.normal(scale=3, size=start.shape) for _ in range(100)]
    weight = nn.Parameter(torch.tensor(start, dtype=torch.float64))
    optimizer = TensorFlowRMSProp(
        [weight], 0.045, decay=0.9, momentum=momentum, epsilon=epsilon, weight_decay=l2, centered=centered
    )
    for gradient in gradients:
        weight.grad = torch.tensor(gradient)
        optimizer.step()
    expected = transcribed(start, gradients, lr=0.045, rho=0.9, mu=momentum, eps=epsilon, l2=l2, centered=centered)
    assert np.abs(weight.detach().numpy() - expected).max() < 1e-6
    assert np.abs(expected - start).max() > 0.1


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_an_update_in_pieces_is_the_update_of_the_whole(
    memory_format: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = []
    for piece in (7, 10**9):
        monkeypatch.setattr(optim, "PIECE", piece)
        torch.manual_seed(0)
        weight = nn.Parameter(torch.randn(5, 4, 3, 3).to(memory_format=memory_format))
        optimizer = TensorFlowRMSProp([weight], 0.1, momentum=0.9, weight_decay=0.01, centered=True)
        for _ in range(3):
            weight.grad = torch.randn(5, 4, 3, 3).to(memory_format=memory_format)
            optimizer.step()
        ends.append([weight.detach(), *optimizer.state[weight].values()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_a_gradient_in_another_memory_format_is_taken_as_it_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optim, "PIECE", 7)
    torch.manual_seed(0)
    start, gradient = torch.randn(5, 4, 3, 3), torch.randn(5, 4, 3, 3)
    ends = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        weight = nn.Parameter(start.to(memory_format=memory_format))
        weight.grad = gradient  # contiguous
        TensorFlowRMSProp([weight], 0.1, momentum=0.9).step()
        ends.append(weight.detach())
    torch.testing.assert_close(*ends, rtol=1e-6, atol=1e-7)  # vector and scalar units of a processor round a last bit apart


def test_torchs_own_rmsprop_is_another_optimizer() -> None:
    ends = []
    for kind in (
        lambda w: TensorFlowRMSProp([w], 0.045, decay=0.9, epsilon=1.0),
        lambda w: torch.optim.RMSprop([w], 0.045, alpha=0.9, eps=1.0),
    ):
        weight = nn.Parameter(torch.ones(1))
        optimizer = kind(weight)
        for _ in range(20):
            weight.grad = torch.full((1,), 0.1)
            optimizer.step()
        ends.append(weight.item())
    assert abs(ends[0] - ends[1]) > 0.005


def test_norms_and_biases_have_no_weight_decay() -> None:
    model = build_model("inception_v4", num_classes=3, width=0.125)
    values = {"name": "rmsprop", "decay": 0.9, "momentum": 0.9, "epsilon": 1.0, "centered": False, "weight_decay": 0.5}
    decayed, plain = build_optimizer(model, values, 0.1).param_groups
    assert decayed["weight_decay"] == 0.5 and plain["weight_decay"] == 0.0
    assert {p.ndim for p in decayed["params"]} == {2, 4} and {p.ndim for p in plain["params"]} == {1}
    assert len(decayed["params"]) + len(plain["params"]) == len(list(model.parameters()))


def test_a_weight_without_gradient_stays() -> None:
    moved, still = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = TensorFlowRMSProp([moved, still], 0.1, weight_decay=0.1)
    moved.grad = torch.ones(2)
    optimizer.step()
    assert still.tolist() == [1, 1] and moved.tolist() != [1, 1]


SECTIONS = [
    {"name": "rmsprop", "decay": 0.9, "momentum": 0.9, "epsilon": 1.0, "centered": True, "weight_decay": 0.1},
    {"name": "rmsprop", "decay": 0.9, "momentum": 0.0, "epsilon": 1.0, "centered": False, "weight_decay": 0.1},
    {"name": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    {"name": "sgd", "momentum": 0.0, "nesterov": False, "weight_decay": 0.1},
    {"name": "adamw", "betas": [0.9, 0.99], "epsilon": 1e-8, "weight_decay": 0.1},
]


@pytest.mark.parametrize("values", SECTIONS, ids=lambda values: values["name"])
def test_state_of_each_optimizer_is_what_its_section_says(values: dict[str, object]) -> None:
    model = nn.Linear(2, 3)
    optimizer = build_optimizer(model, values, 0.1)
    model(torch.ones(1, 2)).sum().backward()
    before = model.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(model.weight, before)
    kept = {key for key, value in optimizer.state[model.weight].items() if isinstance(value, torch.Tensor) and value.ndim == 2}
    assert kept == set(state_names(values))
    assert described_optimizer(optimizer) == (values["name"], kept)


def test_frozen_weights_are_not_the_optimizers() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    groups = parameter_groups(model, 0.1)
    assert [parameter for group in groups for parameter in group["params"]] == [model[1].weight, model[1].bias]
    model.requires_grad_(False)
    with pytest.raises(RecipeError, match="nothing is left to train"):
        parameter_groups(model, 0.1)
