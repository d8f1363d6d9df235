import math
import re

import pytest
import torch
from torch import nn

from inceptionctl.models.bn_inception import BnInception
from inceptionctl.models.summary import count_parameters, endpoints
from tests.models.tables import Row, Table, check_costs, check_every_branch

# Figure 5 of arXiv 1502.03167 as it is printed, less the first layer: #1x1, #3x3 reduce, #3x3, double #3x3 reduce, double #3x3,
# pool and projection. The figure prints "avg + 128" for 4c and 4d, and beside them 576 channels, which only 96 gives.
FIGURE_5 = """
3a  64  64  64  64  96  avg 32
3b  64  64  96  64  96  avg 64
3c  -   128 160 64  96  max
4a  224 64  96  96  128 avg 128
4b  192 96  128 96  128 avg 128
4c  160 128 160 128 160 avg 96
4d  96  128 192 160 192 avg 96
4e  -   128 192 192 256 max
5a  352 192 320 160 224 avg 128
5b  352 192 320 192 224 max 128
"""


def row(name: str, grid_px: int, channels: int) -> Row:
    """A line of Figure 5 as the row of a table."""
    single, reduce, triple, double_reduce, double, pool, project = (
        re.search(rf"^{name} .*$", FIGURE_5, re.M)[0] + " -"
    ).split()[1:8]
    stride = " /2" if single == "-" else ""
    branches = [
        f"1x1 {reduce}, 3x3 {triple}{stride}",
        f"1x1 {double_reduce}, 3x3 {double}, 3x3 {double}{stride}",
    ]
    if stride:
        return Row(1, grid_px, channels, [*branches, "max"])
    pooled = "avg" if pool == "avg" else "max /1"
    return Row(1, grid_px, channels, [f"1x1 {single}", *branches, f"{pooled}, 1x1 {project}"])


PAPER: Table = {
    "stem.pool_1": [Row(1, 112, 64, ["max"])],
    "stem.conv_2": [Row(1, 56, 64, ["1x1 64"])],
    "stem.conv_3": [Row(1, 56, 64, ["3x3 192"])],
    "stem.pool_2": [Row(1, 56, 192, ["max"])],
    "blocks_a": [row("3a", 28, 192), row("3b", 28, 256)],
    "reduction_a": [row("3c", 28, 320)],
    "blocks_b": [row(name, 14, 576) for name in ("4a", "4b", "4c", "4d")],
    "reduction_b": [row("4e", 14, 576)],
    "blocks_c": [row("5a", 7, 1024), row("5b", 7, 1024)],
}
# The output sizes of Figure 5, but that it prints the grid of 3c and 4e before their stride.
SHAPES_224 = {
    "stem.conv_1": (112, 112, 64),
    "stem.pool_1": (56, 56, 64),
    "stem.conv_2": (56, 56, 64),
    "stem.conv_3": (56, 56, 192),
    "stem.pool_2": (28, 28, 192),
    "blocks_a": (28, 28, 320),
    "reduction_a": (14, 14, 576),
    "blocks_b": (14, 14, 576),
    "reduction_b": (7, 7, 1024),
    "blocks_c": (7, 7, 1024),
    "pool": (1, 1, 1024),
    "classifier": (1, 1, 1000),
}
# Separable convolution: 8 filters of 7x7 for each colour, then 1x1 to 64 with batch norm.
CONV_1 = (24 * 49 + 24 * 64 + 2 * 64, 112 * 112 * (24 * 49 + 24 * 64))


@pytest.fixture(scope="module")
def full() -> BnInception:
    with torch.device("meta"):
        return BnInception()


def test_parameters(full: BnInception) -> None:
    assert count_parameters(full) == 11_188_288


def test_parameters_of_tf_slim(full: BnInception) -> None:
    # slim's own test counts the variables of the network without its head: 10173112. It has no gamma, but moving averages; and its
    # first layer has a bias in place of batch norm, since slim's settings name conv2d but not separable_conv2d.
    norms = sum(layer.num_features for layer in full.modules() if isinstance(layer, nn.BatchNorm2d))
    variables = count_parameters(full) - count_parameters(full.classifier) + norms
    assert variables - 3 * 64 + 64 == 10_173_112


def test_endpoints_at_224_px(full: BnInception) -> None:
    assert {endpoint.name: endpoint.shape for endpoint in endpoints(full, 224)} == SHAPES_224


def test_every_channel_count_that_the_figure_prints(full: BnInception) -> None:
    printed = {"blocks_a": [256, 320], "blocks_b": [576] * 4, "blocks_c": [1024] * 2}
    for name, channels in printed.items():
        assert [block.out_channels for block in full.get_submodule(name)] == channels


def test_cost_of_each_stage_follows_from_the_papers_table(full: BnInception) -> None:
    other = {"stem.conv_1": CONV_1, "pool": (0, 0), "classifier": (1024 * 1000 + 1000, 1024 * 1000)}
    check_costs(full, PAPER, 224, other)


def test_every_branch_is_the_papers(full: BnInception) -> None:
    check_every_branch(full, PAPER)


def test_first_layer_is_separable(full: BnInception) -> None:
    first = full.stem.conv_1
    assert (first.depthwise.groups, first.depthwise.weight.shape, first.depthwise.bias) == (3, (24, 1, 7, 7), None)
    assert first.pointwise.conv.weight.shape == (64, 24, 1, 1)


def test_first_layer_pads_as_tensorflow() -> None:
    # On 224 px TensorFlow's "SAME" of a 7x7 /2 adds 2 px before and 3 after: the first window covers px 0 to 4, so px 5 is new.
    torch.manual_seed(0)
    first = BnInception(width=0.25).stem.conv_1.eval()
    x = torch.randn(1, 3, 224, 224)
    changed = x.clone()
    changed[:, :, 5:, :] += 1.0
    with torch.no_grad():
        rows = (first(x) != first(changed)).any(dim=(0, 1)).any(dim=-1)
    assert rows.tolist() == [False] + [True] * 111


def test_pools(full: BnInception) -> None:
    averages = [layer for layer in full.modules() if isinstance(layer, nn.AvgPool2d)]
    assert len(averages) == 7 and not any(pool.count_include_pad for pool in averages)


@pytest.mark.parametrize(("px", "grid"), [(32, 1), (33, 2), (112, 4), (224, 7), (256, 8), (299, 10)])
def test_grid_is_the_image_divided_by_32_and_rounded_up(full: BnInception, px: int, grid: int) -> None:
    shapes = {endpoint.name: endpoint.shape for endpoint in endpoints(full, px)}
    assert shapes["blocks_c"] == (grid, grid, 1024)


def test_first_weights_as_in_tf_slim() -> None:
    """The standard deviations of nets/inception_v2.py, layer by layer; a normal that is cut at two sigma has 0.8796 of its sigma."""
    torch.manual_seed(0)
    network = BnInception()
    sigmas = {"stem.conv_1.depthwise": 1.0, "stem.conv_1.pointwise.conv": 1.0, "stem.conv_2.conv": 0.1}
    reductions = ["reduction_a", "reduction_b"]
    blocks = [f"{stage}.{i}" for stage, count in (("blocks_a", 2), ("blocks_b", 4), ("blocks_c", 2)) for i in range(count)]
    sigmas |= {f"{block}.branch_pool.1.conv": 0.1 for block in blocks}
    sigmas |= {f"{block}.branch_{kind}.0.conv": 0.09 for block in reductions + blocks for kind in ("3x3", "double_3x3")}
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    assert sigmas.keys() < layers.keys()
    for name, layer in layers.items():
        weight = layer.weight.detach()
        sigma = sigmas.get(name, math.sqrt(2.6 / weight[0].numel()))
        # Five standard errors of a standard deviation.
        assert weight.std().item() == pytest.approx(0.8796 * sigma, rel=5 / math.sqrt(2 * weight.numel())), name
        assert 1.9 * sigma < weight.abs().max() <= 2 * sigma * (1 + 1e-6), name
    assert not network.classifier.bias.any()


def test_first_weights_of_narrow_networks() -> None:
    torch.manual_seed(0)
    narrow = BnInception(width=0.25)
    assert narrow.blocks_b[0].branch_pool[1].conv.weight.std().item() == pytest.approx(0.8796 * 0.1, rel=0.1)
