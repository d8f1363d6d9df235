import math

import pytest
import torch
from torch import nn

from inceptionctl.errors import RecipeError
from inceptionctl.models import build_model
from inceptionctl.models.layers import (
    ConvNormAct,
    DropPath,
    MaxPoolSame,
    Parallel,
    average_pool_3x3,
    init_weights,
    max_pool_3x3_reduce,
    same_padding,
    scale_channels,
)

# Standard deviation of a standard normal cut at two sigma.
CUT_AT_TWO_SIGMA = math.sqrt(1 - 4 * math.exp(-2) / math.sqrt(2 * math.pi) / math.erf(math.sqrt(2)))


@pytest.mark.parametrize(
    ("channels", "width", "expected"),
    [
        (35, 1.0, 35),  # exactly the paper's, multiple of 8 or not
        (224, 0.25, 56),
        (32, 0.5, 16),
        (96, 0.3, 32),  # 28.8 -> 32
        (96, 0.28, 24),  # 26.88 -> 24
        (24, 0.5, 16),  # 12 -> 16: halves go up ...
        (40, 0.5, 24),  # 20 -> 24: ... whether even or odd
        (32, 0.01, 8),  # never below 8
        (64, 1.5, 96),
    ],
)
def test_scale_channels(channels: int, width: float, expected: int) -> None:
    assert scale_channels(channels, width) == expected


@pytest.mark.parametrize("width", [0.0, -1.0, math.inf, math.nan])
def test_scale_channels_refuses(width: float) -> None:
    with pytest.raises(ValueError, match="width must be a positive number"):
        scale_channels(64, width)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "grid"),
    [
        (3, 1, "same", (9, 11)),
        ((1, 7), 1, "same", (9, 11)),
        ((7, 1), 1, "same", (9, 11)),
        (1, 1, "same", (9, 11)),
        (3, 1, "valid", (7, 9)),
        (3, 2, "valid", (4, 5)),
        ((3, 1), 1, "valid", (7, 11)),
        (3, 2, "same", (5, 6)),
        (7, 2, "same", (5, 6)),
        (3, 2, "symmetric", (5, 6)),
        (7, 2, "symmetric", (5, 6)),
        (1, 2, "symmetric", (5, 6)),
        (3, 1, "symmetric", (9, 11)),
    ],
)
def test_conv_norm_act_grid(kernel, stride, padding, grid) -> None:
    block = ConvNormAct(3, 8, kernel, stride=stride, padding=padding)
    assert block(torch.randn(2, 3, 9, 11)).shape == (2, 8, *grid)


@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_conv_norm_act_refuses_a_kernel_without_a_middle(padding) -> None:
    with pytest.raises(ValueError, match=f"{padding} padding needs odd kernel sides, got 2 x 3"):
        ConvNormAct(3, 8, (2, 3), padding=padding)


# TensorFlow's tf.nn.conv2d and max_pool2d with padding="SAME": (side, kernel, stride) -> px before, px after.
@pytest.mark.parametrize(
    ("side", "kernel", "stride", "padding"),
    [
        (224, 7, 2, (2, 3)),
        (223, 7, 2, (3, 3)),
        (112, 3, 2, (0, 1)),
        (7, 3, 2, (1, 1)),
        (28, 3, 1, (1, 1)),
        (28, 1, 2, (0, 0)),
        (5, 1, 1, (0, 0)),
    ],
)
def test_same_padding_is_tensorflows(side: int, kernel: int, stride: int, padding: tuple[int, int]) -> None:
    assert same_padding(side, kernel, stride) == padding


def test_same_padding_of_a_strided_convolution_pads_more_after() -> None:
    # On 4 px, kernel 3 and stride 2 TensorFlow pads 0 before and 1 after: the first window is px 0 to 2, the second 2 to end.
    same, symmetric = (ConvNormAct(1, 1, 3, stride=2, padding=padding) for padding in ("same", "symmetric"))
    for block in (same, symmetric):
        nn.init.ones_(block.conv.weight)
        block.norm = nn.Identity()
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert same(x)[0, 0].tolist() == [[45.0, 39.0], [66.0, 50.0]]
    assert symmetric(x)[0, 0].tolist() == [[10.0, 24.0], [51.0, 90.0]]


@pytest.mark.parametrize("side", [4, 5, 112])
def test_max_pool_same(side: int) -> None:
    x = -1 - torch.arange(side * side, dtype=torch.float32).view(1, 1, side, side)  # negative: a border of zeros would win
    y = MaxPoolSame()(x)[0, 0]
    assert y.shape == (math.ceil(side / 2),) * 2
    assert y.max() < 0
    before = 0 if side % 2 == 0 else 1
    assert y[1, 1] == x[0, 0, 2 - before, 2 - before]


def test_conv_norm_without_activation() -> None:
    block = ConvNormAct(3, 8, 1, activation=False)
    assert (block(torch.randn(4, 3, 6, 6)) < 0).any()


def test_conv_norm_act_is_convolution_then_batch_norm_then_relu() -> None:
    torch.manual_seed(0)
    block = ConvNormAct(3, 8, 3, batch_norm_momentum=0.25, batch_norm_eps=0.5)
    nn.init.normal_(block.norm.weight)
    nn.init.normal_(block.norm.bias)
    x = torch.randn(4, 3, 6, 6)

    z = nn.functional.conv2d(x, block.conv.weight, padding=1)
    mean, var = z.mean(dim=(0, 2, 3), keepdim=True), z.var(dim=(0, 2, 3), keepdim=True, unbiased=False)
    gamma, beta = block.norm.weight.view(1, -1, 1, 1), block.norm.bias.view(1, -1, 1, 1)
    expected = ((z - mean) / torch.sqrt(var + 0.5) * gamma + beta).clamp(min=0)

    torch.testing.assert_close(block(x), expected)
    torch.testing.assert_close(block.norm.running_mean, 0.25 * mean.flatten())  # 0.75 of the old, which was 0


def test_conv_norm_act_spares_memory_and_bias() -> None:
    block = ConvNormAct(3, 8, 3)
    assert block.act.inplace
    assert block.conv.bias is None


def test_parallel_concatenates_in_the_order_given() -> None:
    block = Parallel(out_channels=5, b=nn.Conv2d(2, 3, 1), a=nn.Identity())
    x = torch.randn(1, 2, 4, 4)
    y = block(x)
    assert y.shape[1] == block.out_channels
    assert torch.equal(y[:, :3], block.get_submodule("b")(x))
    assert torch.equal(y[:, 3:], x)


def test_average_pool_does_not_count_padding() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]).view(1, 1, 3, 3)
    y = average_pool_3x3()(x)[0, 0]
    assert y.shape == (3, 3)
    assert y[0, 0] == (1 + 2 + 4 + 5) / 4
    assert y[0, 1] == (1 + 2 + 3 + 4 + 5 + 6) / 6
    assert y[1, 1] == 5
    assert y[2, 2] == (5 + 6 + 8 + 9) / 4


def test_average_pool_that_counts_padding() -> None:
    y = average_pool_3x3(counts_padding=True)(torch.ones(1, 1, 3, 3))[0, 0]
    torch.testing.assert_close(y, torch.tensor([[4.0, 6.0, 4.0], [6.0, 9.0, 6.0], [4.0, 6.0, 4.0]]) / 9)


@pytest.mark.parametrize(("before", "after"), [(147, 73), (71, 35), (35, 17), (17, 8), (8, 3)])
def test_max_pool_halves_the_grid(before: int, after: int) -> None:
    x = torch.arange(before * before, dtype=torch.float32).view(1, 1, before, before)
    y = max_pool_3x3_reduce()(x)
    assert y.shape[2:] == (after, after)
    assert y[0, 0, 0, 0] == x[0, 0, 2, 2]


def test_init_weights_linear_and_batch_norm() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.BatchNorm2d(4), nn.Linear(300, 200))
    for parameter in net.parameters():
        nn.init.constant_(parameter, 7.0)
    net[0].running_mean.fill_(7.0)
    init_weights(net)
    norm, linear = net
    assert torch.equal(norm.weight, torch.ones(4))
    assert torch.equal(norm.bias, torch.zeros(4))
    assert torch.equal(norm.running_mean, torch.zeros(4))
    bound = math.sqrt(6 / (300 + 200))
    assert 0.99 * bound < linear.weight.max() <= bound
    assert -bound <= linear.weight.min() < -0.99 * bound
    assert linear.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert torch.equal(linear.bias, torch.zeros(200))


def test_init_weights_of_a_classifier_that_is_a_convolution() -> None:
    linear, conv = nn.Linear(300, 200), nn.Conv2d(300, 200, 1)
    for layer in (linear, conv):
        torch.manual_seed(0)
        init_weights(layer, classifier="convolution")
    assert torch.equal(linear.weight, conv.weight[:, :, 0, 0])
    assert torch.equal(linear.bias, torch.zeros(200))


@pytest.mark.parametrize("conv", [nn.Conv2d(64, 96, (1, 7)), nn.Conv2d(64, 512, 3, groups=2)], ids=["1x7", "groups"])
def test_init_weights_convolution(conv: nn.Conv2d) -> None:
    torch.manual_seed(0)
    fan_in = conv.in_channels // conv.groups * conv.kernel_size[0] * conv.kernel_size[1]
    sigma = math.sqrt(1.3 * 2 / fan_in)
    init_weights(conv)
    assert conv.weight.std().item() == pytest.approx(CUT_AT_TWO_SIGMA * sigma, rel=0.02)
    assert conv.weight.mean().item() == pytest.approx(0, abs=0.03 * sigma)
    assert 1.98 * sigma < conv.weight.abs().max() <= 2 * sigma * (1 + 1e-6)
    # A bell and not a block: the middle half of the range holds 0.683 / 0.954 of a cut normal.
    assert (conv.weight.abs() < sigma).float().mean().item() == pytest.approx(0.683 / 0.954, abs=0.01)
    assert torch.equal(conv.bias, torch.zeros_like(conv.bias))


@pytest.mark.parametrize("name", ["inception_resnet_v1", "resnet_18"])
def test_stochastic_depth_rises_with_depth_and_is_for_training_alone(name: str) -> None:
    torch.manual_seed(0)
    network = build_model(name, num_classes=3, width=0.125, drop_path=0.4)
    units = [module for module in network.modules() if isinstance(module, DropPath)]
    expected = [0.4 * place / (len(units) - 1) for place in range(len(units))]
    assert [unit.probability for unit in units] == pytest.approx(expected)
    plain = build_model(name, num_classes=3, width=0.125)
    assert network.state_dict().keys() == plain.state_dict().keys()
    plain.load_state_dict(network.state_dict())
    images = torch.randn(2, 3, 96, 96)
    assert torch.equal(network.eval()(images), plain.eval()(images))
    assert not torch.equal(network.train()(images), plain.train()(images))


def test_what_is_kept_makes_up_for_what_is_dropped() -> None:
    torch.manual_seed(0)
    drop = DropPath().train()
    drop.probability = 0.25
    made = drop(torch.ones(4000, 2, 3, 3))
    values = made.amax(dim=(1, 2, 3))
    assert sorted(set(values.tolist())) == pytest.approx([0, 4 / 3])
    assert (made == values.view(-1, 1, 1, 1)).all()  # whole images
    assert float((values == 0).float().mean()) == pytest.approx(0.25, abs=0.02)


def test_networks_without_residuals_have_nothing_to_drop() -> None:
    with pytest.raises(RecipeError, match="drop_path: inception_v4 has no residual units"):
        build_model("inception_v4", num_classes=3, drop_path=0.1)
