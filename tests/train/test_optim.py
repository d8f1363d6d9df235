import numpy as np
import pytest
import torch
from torch import nn

from inceptionctl.errors import RecipeError
from inceptionctl.models import build_model
from inceptionctl.recipe.variants import AdamWSection, Optim, RmsPropSection, SgdSection
from inceptionctl.train.optim import (
    TensorFlowRMSProp,
    build_optimizer,
    described_optimizer,
    lr_factors,
    parameter_groups,
    state_names_of,
)


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
@pytest.mark.parametrize(("epsilon", "l2"), [(1.0, 0.0), (1e-3, 0.01)])
def test_100_steps_equal_tensorflows_formula(momentum: float, centered: bool, epsilon: float, l2: float) -> None:
    """In float64, which takes the form that GPUs use; float32 on CPUs is held in test_cpu_rmsprop.py."""
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


ADAMW = AdamWSection(name="adamw", betas=(0.9, 0.99), epsilon=1e-8, weight_decay=0.1)


@pytest.mark.parametrize("of_gradient", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("of_weight", [torch.contiguous_format, torch.channels_last])
def test_adamw_in_one_pass_is_adamw(of_weight: torch.memory_format, of_gradient: torch.memory_format) -> None:
    torch.manual_seed(0)
    model = nn.Conv2d(4, 5, 3).to(memory_format=of_weight)
    optimizer = build_optimizer(model, ADAMW, 0.1)
    assert optimizer.defaults["fused"]
    double = nn.Parameter(model.weight.detach().double())
    other = torch.optim.AdamW([double], 0.1, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1, foreach=False)
    for _ in range(5):
        gradient = torch.randn_like(double)
        double.grad, model.weight.grad = gradient, gradient.float().clone(memory_format=of_gradient)
        optimizer.step()
        other.step()
    assert (model.weight - double).abs().max() < 1e-6
    assert (optimizer.state[model.weight]["exp_avg_sq"] - other.state[double]["exp_avg_sq"]).abs().max() < 1e-6


def test_norms_and_biases_have_no_weight_decay() -> None:
    model = build_model("inception_v4", num_classes=3, width=0.125)
    decayed, plain = build_optimizer(model, RmsPropSection(weight_decay=0.5), 0.1).param_groups
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
    RmsPropSection(centered=True, weight_decay=0.1),
    RmsPropSection(momentum=0.0, weight_decay=0.1),
    SgdSection(name="sgd", nesterov=True, weight_decay=0.1),
    SgdSection(name="sgd", momentum=0.0, weight_decay=0.1),
    ADAMW,
]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.name)
def test_state_of_each_optimizer_is_what_its_section_says(section: Optim) -> None:
    model = nn.Linear(2, 3)
    optimizer = build_optimizer(model, section, 0.1)
    model(torch.ones(1, 2)).sum().backward()
    before = model.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(model.weight, before)
    kept = {key for key, value in optimizer.state[model.weight].items() if isinstance(value, torch.Tensor) and value.ndim == 2}
    assert kept == set(state_names_of(section))
    assert described_optimizer(optimizer) == (section.name, kept)


def test_frozen_weights_are_not_the_optimizers() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    groups = parameter_groups(model, SgdSection(name="sgd"))
    assert [parameter for group in groups for parameter in group["params"]] == [model[1].weight, model[1].bias]
    model.requires_grad_(False)
    with pytest.raises(RecipeError, match="nothing is left to train"):
        parameter_groups(model, SgdSection(name="sgd"))


def test_rates_fall_block_by_block_from_the_head() -> None:
    model = build_model("resnet_18", num_classes=4, width=0.125)
    factors = {"stem": 0.5**5, "stage_1": 0.5**4, "stage_2": 0.5**3, "stage_3": 0.25, "stage_4": 0.5, "classifier": 10.0}
    assert lr_factors(model, 0.5, 10.0) == factors
    groups = parameter_groups(model, SgdSection(name="sgd", lr_decay_by_block=0.5, head_lr_factor=10.0))
    of = {id(parameter): group for group in groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        group = of[id(parameter)]
        assert group["lr_factor"] == factors[name.partition(".")[0]]
        assert group["weight_decay"] == (4e-5 if parameter.ndim > 1 else 0.0)
    assert len(parameter_groups(model, SgdSection(name="sgd"))) == 2
