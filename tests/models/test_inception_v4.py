import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from inceptionctl.models import inception_v4 as module
from inceptionctl.models.inception_v4 import InceptionV4
from inceptionctl.models.summary import count_parameters, endpoints, multiply_adds
from tests.models.tables import Row, Table, check_costs, check_every_branch

# The network as the paper prints it, Figures 3 to 8 and Table 1.
PAPER: Table = {
    "stem.conv_1": [Row(1, 299, 3, ["3x3 32 /2 V"])],
    "stem.conv_2": [Row(1, 149, 32, ["3x3 32 V"])],
    "stem.conv_3": [Row(1, 147, 32, ["3x3 64"])],
    "stem.mixed_1": [Row(1, 147, 64, ["max", "3x3 96 /2 V"])],
    "stem.mixed_2": [Row(1, 73, 160, ["1x1 64, 3x3 96 V", "1x1 64, 7x1 64, 1x7 64, 3x3 96 V"])],
    "stem.mixed_3": [Row(1, 71, 192, ["3x3 192 /2 V", "max"])],
    "blocks_a": [Row(4, 35, 384, ["avg, 1x1 96", "1x1 96", "1x1 64, 3x3 96", "1x1 64, 3x3 96, 3x3 96"])],
    "reduction_a": [Row(1, 35, 384, ["max", "3x3 384 /2 V", "1x1 192, 3x3 224, 3x3 256 /2 V"])],
    "blocks_b": [
        Row(
            7,
            17,
            1024,
            [
                "avg, 1x1 128",
                "1x1 384",
                "1x1 192, 1x7 224, 7x1 256",
                "1x1 192, 1x7 192, 7x1 224, 1x7 224, 7x1 256",
            ],
        )
    ],
    "reduction_b": [Row(1, 17, 1024, ["max", "1x1 192, 3x3 192 /2 V", "1x1 256, 1x7 256, 7x1 320, 3x3 320 /2 V"])],
    "blocks_c": [
        Row(
            3,
            8,
            1536,
            [
                "avg, 1x1 256",
                "1x1 256",
                "1x1 384, {1x3 256, 3x1 256}",
                "1x1 384, 1x3 448, 3x1 512, {1x3 256, 3x1 256}",
            ],
        )
    ],
}
# What TF-slim's nets/inception_v4.py has instead.
TF_SLIM = {
    "stem.mixed_2": {"1x1 64, 7x1 64, 1x7 64, 3x3 96 V": "1x1 64, 1x7 64, 7x1 64, 3x3 96 V"},
    "blocks_b": {"1x1 192, 1x7 192, 7x1 224, 1x7 224, 7x1 256": "1x1 192, 7x1 192, 1x7 224, 7x1 224, 1x7 256"},
    "blocks_c": {
        "1x1 384, 1x3 448, 3x1 512, {1x3 256, 3x1 256}": "1x1 384, 3x1 448, 1x3 512, {1x3 256, 3x1 256}",
    },
}
# Figure 9 and the sizes written into Figure 3.
SHAPES_299 = {
    "stem.conv_1": (149, 149, 32),
    "stem.conv_2": (147, 147, 32),
    "stem.conv_3": (147, 147, 64),
    "stem.mixed_1": (73, 73, 160),
    "stem.mixed_2": (71, 71, 192),
    "stem.mixed_3": (35, 35, 384),
    "blocks_a": (35, 35, 384),
    "reduction_a": (17, 17, 1024),
    "blocks_b": (17, 17, 1024),
    "reduction_b": (8, 8, 1536),
    "blocks_c": (8, 8, 1536),
    "pool": (1, 1, 1536),
    "classifier": (1, 1, 1000),
}


@pytest.fixture(scope="module")
def full() -> InceptionV4:
    torch.manual_seed(0)
    return InceptionV4()


@pytest.fixture
def small() -> InceptionV4:
    torch.manual_seed(0)
    return InceptionV4(num_classes=10, width=0.25)


def test_parameters_of_the_paper(full: InceptionV4) -> None:
    assert count_parameters(full) == 42_679_816


def test_endpoints_at_299_px(full: InceptionV4) -> None:
    assert {endpoint.name: endpoint.shape for endpoint in endpoints(full, 299)} == SHAPES_299


def test_cost_of_each_stage_follows_from_the_papers_table(full: InceptionV4) -> None:
    check_costs(full, PAPER, 299, {"pool": (0, 0), "classifier": (1536 * 1000 + 1000, 1536 * 1000)})
    assert 12.25e9 < multiply_adds(full, 299) < 12.30e9


@pytest.mark.parametrize("kernel_order", ["paper", "tf_slim"])
def test_every_branch_is_the_papers(kernel_order) -> None:
    with torch.device("meta"):
        model = InceptionV4(kernel_order=kernel_order)
    swapped = TF_SLIM if kernel_order == "tf_slim" else {}
    table = {
        name: [replace(row, branches=[swapped.get(name, {}).get(branch, branch) for branch in row.branches]) for row in rows]
        for name, rows in PAPER.items()
    }
    check_every_branch(model, table)


def test_batch_norm_and_pools_as_in_tf_slim(full: InceptionV4) -> None:
    norms = [layer for layer in full.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert len(norms) == 149
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 3e-4)}
    pools = [layer for layer in full.modules() if isinstance(layer, nn.AvgPool2d)]
    assert len(pools) == 4 + 7 + 3
    assert not any(pool.count_include_pad for pool in pools)
    relus = [layer for layer in full.modules() if isinstance(layer, nn.ReLU)]
    assert len(relus) == 149 and all(relu.inplace for relu in relus)


def test_batch_norm_settings_reach_every_layer() -> None:
    with torch.device("meta"):
        model = InceptionV4(width=0.25, batch_norm_momentum=0.1, batch_norm_eps=1e-5)
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-5, 0.1)}


def test_initial_weights_of_every_convolution(full: InceptionV4) -> None:
    for name, layer in full.named_modules():
        if not isinstance(layer, nn.Conv2d):
            continue
        fan_in = layer.in_channels * layer.kernel_size[0] * layer.kernel_size[1]
        sigma = math.sqrt(1.3 * 2 / fan_in)
        count = layer.weight.numel()
        assert layer.weight.abs().max() <= 2 * sigma * (1 + 1e-6), name
        # 0.8796 is what a cut at two sigma leaves; five standard errors of a sample of this size.
        assert layer.weight.std().item() == pytest.approx(0.8796 * sigma, rel=5 / math.sqrt(2 * count)), name
    bound = math.sqrt(6 / (1536 + 1000))
    assert full.classifier.weight.abs().max() <= bound
    assert full.classifier.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)
    assert not full.classifier.bias.any()


def test_same_seed_same_weights() -> None:
    models = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        models.append(InceptionV4(num_classes=10, width=0.25).state_dict())
    first, same, other = models
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert not torch.equal(first["stem.conv_1.conv.weight"], other["stem.conv_1.conv.weight"])
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


@pytest.mark.parametrize(("height", "width", "grid"), [(75, 75, (1, 1)), (139, 139, (3, 3)), (107, 139, (2, 3))])
def test_shapes_of_smaller_images(small: InceptionV4, height: int, width: int, grid: tuple[int, int]) -> None:
    small.eval()
    x = torch.randn(2, 3, height, width)
    with torch.no_grad():
        assert small.forward_features(x).shape == (2, 384, *grid)
        assert small(x).shape == (2, 10)


@pytest.mark.parametrize("width", [0.1, 0.3, 1.4])
def test_odd_widths_fit_together(width: int) -> None:
    with torch.device("meta"):
        model = InceptionV4(num_classes=7, width=width)
        assert model(torch.empty(2, 3, 299, 299)).shape == (2, 7)
    assert all(layer.out_channels % 8 == 0 for layer in model.modules() if isinstance(layer, nn.Conv2d))


def test_images_that_are_too_small(small: InceptionV4, monkeypatch: pytest.MonkeyPatch) -> None:
    for call in (
        lambda: small(torch.empty(1, 3, 74, 299)),
        lambda: small(torch.empty(1, 3, 299, 74)),
        lambda: multiply_adds(small, 74),
    ):
        with pytest.raises(ValueError, match="at least 75 x 75 px, got a side of 74 px"):
            call()
    # And 75 is the true limit: without the check, a side of 74 px fails inside.
    monkeypatch.setattr(module, "check_input_px", lambda *arguments: None)
    with pytest.raises(RuntimeError):
        multiply_adds(small, 74)


def test_eval_treats_each_image_alone(small: InceptionV4) -> None:
    x = torch.randn(3, 3, 107, 107)
    x[1] *= 3
    small.eval()
    with torch.no_grad():
        together = small(x)
        alone = torch.cat([small(image[None]) for image in x])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-2


def test_gradient_reaches_every_parameter(small: InceptionV4) -> None:
    small.train()
    small(torch.randn(2, 3, 139, 139)).square().sum().backward()
    without = [name for name, parameter in small.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert without == []


def test_dropout_draws_from_torchs_global_random_state() -> None:
    torch.manual_seed(0)
    model = InceptionV4(num_classes=10, width=0.25, dropout=0.5).eval()
    x = torch.randn(1, 3, 75, 75)

    def logits(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        with torch.no_grad():
            return model(x)

    assert torch.equal(logits(1), logits(2))  # eval: none
    model.dropout.train()
    assert torch.equal(logits(1), logits(1))
    assert not torch.equal(logits(1), logits(2))
    dropped = (model.dropout(torch.ones(10_000)) == 0).float().mean().item()
    assert dropped == pytest.approx(0.5, abs=0.03)


def test_dropout_of_the_paper(full: InceptionV4) -> None:
    assert full.dropout.p == 0.2


def test_refuses_no_classes() -> None:
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        InceptionV4(num_classes=0)
