import pytest
import torch
from torch import nn

from inceptionctl.models.resnet import ResNet, Unit
from inceptionctl.models.summary import count_parameters, endpoints, multiply_adds
from tests.models.tables import Row, Table, check_costs, check_every_branch

# Table 1 of arXiv 1512.03385: units of conv2_x to conv5_x.
UNITS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
# torchvision's metadata of ResNet*_Weights.IMAGENET1K_V1: parameters, and multiply-adds in G with the stride in the 3x3.
PARAMETERS = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032, 101: 44_549_160, 152: 60_192_808}
GIGA_MULTIPLY_ADDS = {18: 1.814, 34: 3.664, 50: 4.089, 101: 7.801, 152: 11.514}


def chain(channels: int, unit: str, stride: str, stride_in: str) -> str:
    if unit == "original":
        return f"3x3 {channels}{stride}, 3x3 {channels} linear"
    first, second = (stride, "") if stride_in == "1x1" else ("", stride)
    return f"1x1 {channels}{first}, 3x3 {channels}{second}, 1x1 {4 * channels} linear"


def paper(depth: int, unit: str, stride_in: str) -> Table:
    """Table 1 of arXiv 1512.03385 for images of 224 px."""
    table: Table = {"stem.conv": [Row(1, 224, 3, ["7x7 64 /2"])], "stem.pool": [Row(1, 112, 64, ["max"])]}
    channels, grid_px, factor = 64, 56, 4 if unit == "bottleneck" else 1
    for number, (units, inner) in enumerate(zip(UNITS[depth], (64, 128, 256, 512), strict=True), 1):
        out, stride = factor * inner, "" if number == 1 else " /2"
        shortcut = f"1x1 {out}{stride} linear" if (channels, stride) != (out, "") else "identity"
        first = Row(1, grid_px, channels, [chain(inner, unit, stride, stride_in), shortcut])
        grid_px = grid_px // 2 if stride else grid_px
        rest = Row(units - 1, grid_px, out, [chain(inner, unit, "", stride_in), "identity"])
        table[f"stage_{number}"], channels = [first, rest], out
    return table


def on_meta(depth, **arguments):
    with torch.device("meta"):
        return ResNet(depth, **arguments)


CHOICES = [(depth, unit, stride_in) for depth in UNITS for unit in ("original", "bottleneck") for stride_in in ("1x1", "3x3")]


@pytest.mark.parametrize(("depth", "unit", "stride_in"), CHOICES)
def test_every_branch_and_cost_is_the_papers(depth, unit, stride_in) -> None:
    model = on_meta(depth, residual_unit=unit, stride_in=stride_in)
    table = paper(depth, unit, stride_in)
    check_every_branch(model, table)
    features = 2048 if unit == "bottleneck" else 512
    check_costs(model, table, 224, {"pool": (0, 0), "classifier": (features * 1000 + 1000, features * 1000)})


@pytest.mark.parametrize("depth", UNITS)
def test_parameters_and_cost_of_torchvision(depth) -> None:
    model = on_meta(depth, stride_in="3x3")
    assert count_parameters(model) == PARAMETERS[depth] == count_parameters(on_meta(depth))
    assert multiply_adds(model, 224) / 1e9 == pytest.approx(GIGA_MULTIPLY_ADDS[depth], abs=5e-4)


# The last line of Table 1: multiply-adds of the paper's own networks, rounded as printed.
@pytest.mark.parametrize(("depth", "printed"), [(18, 1.8e9), (34, 3.6e9), (50, 3.8e9), (101, 7.6e9), (152, 11.3e9)])
def test_cost_that_the_paper_prints(depth, printed: float) -> None:
    assert multiply_adds(on_meta(depth), 224) == pytest.approx(printed, rel=0.02)


@pytest.mark.parametrize(("depth", "factor"), [(18, 1), (34, 1), (50, 4), (101, 4), (152, 4)])
def test_endpoints_at_224_px(depth, factor: int) -> None:
    assert {endpoint.name: endpoint.shape for endpoint in endpoints(on_meta(depth), 224)} == {
        "stem.conv": (112, 112, 64),
        "stem.pool": (56, 56, 64),
        "stage_1": (56, 56, 64 * factor),
        "stage_2": (28, 28, 128 * factor),
        "stage_3": (14, 14, 256 * factor),
        "stage_4": (7, 7, 512 * factor),
        "pool": (1, 1, 512 * factor),
        "classifier": (1, 1, 1000),
    }


def test_padding_is_even_on_all_sides() -> None:
    model = on_meta(50)
    assert not any(getattr(layer, "pads_unevenly", False) for layer in model.modules())
    assert (model.stem.conv.conv.padding, model.stem.pool.padding) == ((3, 3), 1)


@pytest.mark.parametrize("unit", ["original", "bottleneck"])
def test_unit_is_relu_of_the_sum(unit) -> None:
    torch.manual_seed(0)
    model = ResNet(18, num_classes=3, width=0.125, residual_unit=unit)
    block: Unit = model.stage_2[0]
    x = torch.randn(4, block.shortcut.conv.in_channels, 8, 8).relu()
    expected = (block.residual(x) + block.shortcut(x)).clamp(min=0)
    torch.testing.assert_close(block(x), expected)
    before_relu = block.residual(x)
    assert (before_relu < 0).any(), "a ReLU after the last norm"
    assert (block.shortcut(x) < 0).any(), "a ReLU in the shortcut"


@pytest.mark.parametrize(("px", "grid"), [(32, 1), (33, 2), (224, 7), (256, 8), (299, 10)])
def test_grid_is_the_image_divided_by_32_and_rounded_up(px: int, grid: int) -> None:
    shapes = {endpoint.name: endpoint.shape for endpoint in endpoints(on_meta(18), px)}
    assert shapes["stage_4"] == (grid, grid, 512)


def test_no_bias_but_the_classifiers() -> None:
    assert [name for name, _ in on_meta(50).named_parameters() if name.endswith("bias") and "norm" not in name] == [
        "classifier.bias"
    ]
    assert not any(layer.bias is not None for layer in on_meta(50).modules() if isinstance(layer, nn.Conv2d))
