import math

import pytest
import torch
from torch import nn

from inceptionctl.models.inception_v3 import InceptionV3
from inceptionctl.models.layers import AuxHead
from inceptionctl.models.summary import count_parameters, endpoints, multiply_adds
from tests.models.tables import Row, Table, check_costs, check_every_branch


def block_17(inner: int) -> list[str]:
    return [
        "avg, 1x1 192",
        "1x1 192",
        f"1x1 {inner}, 1x7 {inner}, 7x1 192",
        f"1x1 {inner}, 7x1 {inner}, 1x7 {inner}, 7x1 {inner}, 1x7 192",
    ]


BLOCK_8 = ["avg, 1x1 192", "1x1 320", "1x1 384, {1x3 384, 3x1 384}", "1x1 448, 3x3 384, {1x3 384, 3x1 384}"]
# Table 1 and Figures 5, 6, 7 and 10 of arXiv 1512.00567, with the numbers that TF-slim's nets/inception_v3.py gives them.
PAPER: Table = {
    "stem.conv_1": [Row(1, 299, 3, ["3x3 32 /2 V"])],
    "stem.conv_2": [Row(1, 149, 32, ["3x3 32 V"])],
    "stem.conv_3": [Row(1, 147, 32, ["3x3 64"])],
    "stem.pool_1": [Row(1, 147, 64, ["max"])],
    "stem.conv_4": [Row(1, 73, 64, ["1x1 80"])],
    "stem.conv_5": [Row(1, 73, 80, ["3x3 192 V"])],
    "stem.pool_2": [Row(1, 71, 192, ["max"])],
    "blocks_a": [
        Row(1, 35, 192, ["avg, 1x1 32", "1x1 64", "1x1 48, 5x5 64", "1x1 64, 3x3 96, 3x3 96"]),
        Row(1, 35, 256, ["avg, 1x1 64", "1x1 64", "1x1 48, 5x5 64", "1x1 64, 3x3 96, 3x3 96"]),
        Row(1, 35, 288, ["avg, 1x1 64", "1x1 64", "1x1 48, 5x5 64", "1x1 64, 3x3 96, 3x3 96"]),
    ],
    "reduction_a": [Row(1, 35, 288, ["max", "3x3 384 /2 V", "1x1 64, 3x3 96, 3x3 96 /2 V"])],
    "blocks_b": [Row(1, 17, 768, block_17(128)), Row(2, 17, 768, block_17(160)), Row(1, 17, 768, block_17(192))],
    "reduction_b": [Row(1, 17, 768, ["max", "1x1 192, 3x3 320 /2 V", "1x1 192, 1x7 192, 7x1 192, 3x3 192 /2 V"])],
    "blocks_c": [Row(1, 8, 1280, BLOCK_8), Row(1, 8, 2048, BLOCK_8)],
}
# The sizes that TF-slim writes beside its layers.
SHAPES_299 = {
    "stem.conv_1": (149, 149, 32),
    "stem.conv_2": (147, 147, 32),
    "stem.conv_3": (147, 147, 64),
    "stem.pool_1": (73, 73, 64),
    "stem.conv_4": (73, 73, 80),
    "stem.conv_5": (71, 71, 192),
    "stem.pool_2": (35, 35, 192),
    "blocks_a": (35, 35, 288),
    "reduction_a": (17, 17, 768),
    "blocks_b": (17, 17, 768),
    "reduction_b": (8, 8, 1280),
    "blocks_c": (8, 8, 2048),
    "pool": (1, 1, 2048),
    "classifier": (1, 1, 1000),
}


@pytest.fixture(scope="module")
def full() -> InceptionV3:
    torch.manual_seed(0)
    return InceptionV3()


def test_parameters_of_the_ports(full: InceptionV3) -> None:
    # torchvision's metadata of Inception_V3_Weights.IMAGENET1K_V1, whose weights include the auxiliary head.
    assert count_parameters(full) == 27_161_264
    with torch.device("meta"):
        assert count_parameters(InceptionV3(aux_head=False)) == 23_834_568


def test_parameters_of_tf_slim() -> None:
    # slim's own test counts the variables of the network without its heads: 21802784. It has no gamma, but moving averages.
    with torch.device("meta"):
        model = InceptionV3(aux_head=False)
    norms = sum(layer.num_features for layer in model.modules() if isinstance(layer, nn.BatchNorm2d))
    assert count_parameters(model) - count_parameters(model.classifier) + norms == 21_802_784


def test_endpoints_at_299_px(full: InceptionV3) -> None:
    assert {endpoint.name: endpoint.shape for endpoint in endpoints(full, 299)} == SHAPES_299


def test_cost_of_each_stage_follows_from_the_table(full: InceptionV3) -> None:
    check_costs(full, PAPER, 299, {"pool": (0, 0), "classifier": (2048 * 1000 + 1000, 2048 * 1000)})
    assert 5.71e9 < multiply_adds(full, 299) < 5.72e9  # torchvision prints 5.713 G for the same network


@pytest.mark.parametrize("average_pool", ["tf_slim", "torchvision"])
def test_every_branch_is_the_tables(average_pool) -> None:
    with torch.device("meta"):
        model = InceptionV3(average_pool=average_pool)
    check_every_branch(model, PAPER)
    pools = [layer for name, layer in model.named_modules() if isinstance(layer, nn.AvgPool2d) and "aux" not in name]
    assert len(pools) == 3 + 4 + 2
    assert {pool.count_include_pad for pool in pools} == {average_pool == "torchvision"}


def test_the_two_average_pools_share_weights_but_not_logits() -> None:
    torch.manual_seed(0)
    slim, torchvision = (InceptionV3(num_classes=10, width=0.125, average_pool=kind) for kind in ("tf_slim", "torchvision"))
    torchvision.load_state_dict(slim.state_dict())
    # An untrained net in eval mode has features near zero: without its running statistics it has some.
    for model in (slim, torchvision):
        model.train()
        model.dropout.eval()
        model.aux_head = None
    x = torch.randn(2, 3, 107, 107)
    with torch.no_grad():
        assert (slim(x) - torchvision(x)).abs().max() > 1e-3


def test_batch_norm_as_in_tf_slim(full: InceptionV3) -> None:
    norms = [layer for layer in full.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert len(norms) == 94 + 2  # 94 convolutions, and 2 of the auxiliary head
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 3e-4)}


def test_auxiliary_head(full: InceptionV3) -> None:
    head = full.aux_head
    assert isinstance(head, AuxHead)
    assert (head.conv_1x1.conv.weight.shape, head.conv_grid.conv.weight.shape) == ((128, 768, 1, 1), (768, 128, 5, 5))
    assert head.classifier.weight.shape == (1000, 768)
    assert count_parameters(head) == 128 * 768 + 2 * 128 + 768 * 128 * 25 + 2 * 768 + 768 * 1000 + 1000


def test_first_weights_of_the_auxiliary_head(full: InceptionV3) -> None:
    # trunc_normal(0.01) and trunc_normal(0.001) in TF-slim; the 1x1 convolution is as everywhere.
    head = full.aux_head
    for layer, sigma in ((head.conv_grid.conv, 0.01), (head.classifier, 0.001), (head.conv_1x1.conv, math.sqrt(2.6 / 768))):
        assert layer.weight.std().item() == pytest.approx(0.8796 * sigma, rel=0.01)
        assert layer.weight.abs().max() <= 2 * sigma * (1 + 1e-6)


def test_first_weights_of_the_classifier(full: InceptionV3) -> None:
    # A 1x1 convolution in TF-slim, from variance_scaling_initializer: std 0.0313, no Glorot's sqrt(2 / 3048) = 0.0256.
    weight = full.classifier.weight
    assert weight.std().item() == pytest.approx(0.0313, rel=0.005)
    assert weight.abs().max() <= 2 * math.sqrt(2.6 / 2048) * (1 + 1e-6)
