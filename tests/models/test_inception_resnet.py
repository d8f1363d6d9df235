import pytest
import torch
from torch import nn

from inceptionctl.errors import RecipeError
from inceptionctl.models import build_model
from inceptionctl.models.inception_resnet import InceptionResNet, ResidualBlock
from inceptionctl.models.layers import Parallel
from inceptionctl.models.summary import count_parameters, endpoints, multiply_adds
from tests.models.tables import Row, Table, check_costs, check_every_branch

START: Table = {
    "stem.conv_1": [Row(1, 299, 3, ["3x3 32 /2 V"])],
    "stem.conv_2": [Row(1, 149, 32, ["3x3 32 V"])],
    "stem.conv_3": [Row(1, 147, 32, ["3x3 64"])],
}
# Figure 14.
STEM_V1: Table = START | {
    "stem.pool_1": [Row(1, 147, 64, ["max"])],
    "stem.conv_4": [Row(1, 73, 64, ["1x1 80"])],
    "stem.conv_5": [Row(1, 73, 80, ["3x3 192 V"])],
    "stem.conv_6": [Row(1, 71, 192, ["3x3 256 /2 V"])],
}
# Figure 3.
STEM_V2: Table = START | {
    "stem.mixed_1": [Row(1, 147, 64, ["max", "3x3 96 /2 V"])],
    "stem.mixed_2": [Row(1, 73, 160, ["1x1 64, 3x3 96 V", "1x1 64, 7x1 64, 1x7 64, 3x3 96 V"])],
    "stem.mixed_3": [Row(1, 71, 192, ["3x3 192 /2 V", "max"])],
}
# TF-slim's nets/inception_resnet_v2.py up to Mixed_5b.
STEM_TF_SLIM: Table = {name: rows for name, rows in STEM_V1.items() if name != "stem.conv_6"} | {
    "stem.pool_2": [Row(1, 71, 192, ["max"])],
    "stem.mixed": [Row(1, 35, 192, ["avg, 1x1 64", "1x1 96", "1x1 48, 5x5 64", "1x1 64, 3x3 96, 3x3 96"])],
}


def body_v2(a: int, b: int, c: int, repeats: tuple[int, int, int]) -> Table:
    """Figures 16 to 19 and Table 1, for these widths of the trunk."""
    return {
        "blocks_a": [Row(repeats[0], 35, a, ["1x1 32", "1x1 32, 3x3 32", "1x1 32, 3x3 48, 3x3 64"], f"1x1 {a} bias")],
        "reduction_a": [Row(1, 35, a, ["max", "3x3 384 /2 V", "1x1 256, 3x3 256, 3x3 384 /2 V"])],
        "blocks_b": [Row(repeats[1], 17, b, ["1x1 192", "1x1 128, 1x7 160, 7x1 192"], f"1x1 {b} bias")],
        "reduction_b": [
            Row(1, 17, b, ["max", "1x1 256, 3x3 384 /2 V", "1x1 256, 3x3 288 /2 V", "1x1 256, 3x3 288, 3x3 320 /2 V"])
        ],
        "blocks_c": [Row(repeats[2], 8, c, ["1x1 192", "1x1 192, 1x3 224, 3x1 256"], f"1x1 {c} bias")],
    }


# Figures 10 to 15, 3 and 16 to 19, Table 1 of arXiv 1602.07261; the last as in TF-slim.
PAPER: dict[str, Table] = {
    "v1": STEM_V1
    | {
        "blocks_a": [Row(5, 35, 256, ["1x1 32", "1x1 32, 3x3 32", "1x1 32, 3x3 32, 3x3 32"], "1x1 256 bias")],
        "reduction_a": [Row(1, 35, 256, ["max", "3x3 384 /2 V", "1x1 192, 3x3 192, 3x3 256 /2 V"])],
        "blocks_b": [Row(10, 17, 896, ["1x1 128", "1x1 128, 1x7 128, 7x1 128"], "1x1 896 bias")],
        "reduction_b": [
            Row(1, 17, 896, ["max", "1x1 256, 3x3 384 /2 V", "1x1 256, 3x3 256 /2 V", "1x1 256, 3x3 256, 3x3 256 /2 V"])
        ],
        "blocks_c": [Row(5, 8, 1792, ["1x1 192", "1x1 192, 1x3 192, 3x1 192"], "1x1 1792 bias")],
    },
    "v2": STEM_V2 | body_v2(384, 1152, 2144, (5, 10, 5)),
    "v2_tf_slim": STEM_TF_SLIM | body_v2(320, 1088, 2080, (10, 20, 10)) | {"conv_head": [Row(1, 8, 2080, ["1x1 1536"])]},
}
STEM_SHAPES = {"stem.conv_1": (149, 149, 32), "stem.conv_2": (147, 147, 32), "stem.conv_3": (147, 147, 64)}
# Figures 14 and 3, and the sizes that TF-slim writes beside its layers.
SHAPES_299 = {
    "v1": STEM_SHAPES
    | {
        "stem.pool_1": (73, 73, 64),
        "stem.conv_4": (73, 73, 80),
        "stem.conv_5": (71, 71, 192),
        "stem.conv_6": (35, 35, 256),
        "blocks_a": (35, 35, 256),
        "reduction_a": (17, 17, 896),
        "blocks_b": (17, 17, 896),
        "reduction_b": (8, 8, 1792),
        "blocks_c": (8, 8, 1792),
        "pool": (1, 1, 1792),
        "classifier": (1, 1, 1000),
    },
    "v2": STEM_SHAPES
    | {
        "stem.mixed_1": (73, 73, 160),
        "stem.mixed_2": (71, 71, 192),
        "stem.mixed_3": (35, 35, 384),
        "blocks_a": (35, 35, 384),
        "reduction_a": (17, 17, 1152),
        "blocks_b": (17, 17, 1152),
        "reduction_b": (8, 8, 2144),
        "blocks_c": (8, 8, 2144),
        "pool": (1, 1, 2144),
        "classifier": (1, 1, 1000),
    },
    "v2_tf_slim": STEM_SHAPES
    | {
        "stem.pool_1": (73, 73, 64),
        "stem.conv_4": (73, 73, 80),
        "stem.conv_5": (71, 71, 192),
        "stem.pool_2": (35, 35, 192),
        "stem.mixed": (35, 35, 320),
        "blocks_a": (35, 35, 320),
        "reduction_a": (17, 17, 1088),
        "blocks_b": (17, 17, 1088),
        "reduction_b": (8, 8, 2080),
        "blocks_c": (8, 8, 2080),
        "conv_head": (8, 8, 1536),
        "pool": (1, 1, 1536),
        "classifier": (1, 1, 1000),
    },
}


def on_meta(variant, **arguments):
    with torch.device("meta"):
        return InceptionResNet(variant, **arguments)


# v1 and v2 follow from the table above; TF-slim's is that of timm's inception_resnet_v2.
@pytest.mark.parametrize(("variant", "parameters"), [("v1", 22_756_328), ("v2", 32_433_928), ("v2_tf_slim", 55_843_464)])
def test_parameters(variant, parameters: int) -> None:
    assert count_parameters(on_meta(variant)) == parameters


@pytest.mark.parametrize("variant", PAPER)
def test_endpoints_at_299_px(variant) -> None:
    model = on_meta(variant)
    assert {endpoint.name: endpoint.shape for endpoint in endpoints(model, 299)} == SHAPES_299[variant]


@pytest.mark.parametrize(("variant", "features"), [("v1", 1792), ("v2", 2144), ("v2_tf_slim", 1536)])
def test_cost_of_each_stage_follows_from_the_papers_table(variant, features: int) -> None:
    check_costs(
        on_meta(variant), PAPER[variant], 299, {"pool": (0, 0), "classifier": (features * 1000 + 1000, features * 1000)}
    )


def test_multiply_adds_of_tf_slims() -> None:
    assert 13.1e9 < multiply_adds(on_meta("v2_tf_slim"), 299) < 13.2e9  # timm lists 13.18 G for it, with batch norm


@pytest.mark.parametrize("variant", PAPER)
def test_every_branch_is_the_papers(variant) -> None:
    check_every_branch(on_meta(variant), PAPER[variant])


@pytest.mark.parametrize("variant", PAPER)
def test_the_linear_convolutions_have_a_bias_and_nothing_else(variant) -> None:
    model = on_meta(variant)
    blocks = [layer for layer in model.modules() if isinstance(layer, ResidualBlock)]
    projections = {block.project for block in blocks}
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            assert (layer.bias is not None) == (layer in projections)
    assert all([name for name, _ in block.named_children()] == ["branches", "project", "drop_path", "act"] for block in blocks)


@pytest.mark.parametrize("variant", PAPER)
def test_default_scales_are_tf_slims(variant) -> None:
    model = on_meta(variant)
    scales = [[block.scale for block in stage] for stage in (model.blocks_a, model.blocks_b, model.blocks_c)]
    a, b, c = (10, 20, 10) if variant == "v2_tf_slim" else (5, 10, 5)
    last = [1.0] if variant == "v2_tf_slim" else [0.20]  # TF-slim's last block is plain
    assert scales == [[0.17] * a, [0.10] * b, [0.20] * (c - 1) + last]


def test_only_tf_slims_last_block_has_no_relu() -> None:
    for variant in PAPER:
        model = on_meta(variant)
        acts = [block.act for stage in (model.blocks_a, model.blocks_b, model.blocks_c) for block in stage]
        plain = [number for number, act in enumerate(acts) if not isinstance(act, nn.ReLU)]
        assert plain == ([len(acts) - 1] if variant == "v2_tf_slim" else [])


@pytest.mark.parametrize(
    ("given", "expected"), [(1.0, (1.0, 1.0, 1.0)), ((0.1, 0.2, 0.3), (0.1, 0.2, 0.3)), ([0.3, 0.2, 0.1], (0.3, 0.2, 0.1))]
)
def test_scales_can_be_chosen(given, expected) -> None:
    model = on_meta("v1", width=0.25, residual_scale=given)
    assert (model.blocks_a[0].scale, model.blocks_b[-1].scale, model.blocks_c[-1].scale) == expected


@pytest.mark.parametrize("scale", [0.0, -0.1, float("nan"), float("inf"), (0.1, 0.1), (0.1, 0.0, 0.1)])
def test_scales_that_mean_nothing(scale) -> None:
    with pytest.raises(ValueError, match="residual_scale must be one positive number, or three"):
        on_meta("v1", residual_scale=scale)


def test_residual_block_is_relu_of_the_scaled_sum() -> None:
    torch.manual_seed(0)
    branches = Parallel(out_channels=5, a=nn.Conv2d(4, 2, 1), b=nn.Conv2d(4, 3, 1))
    block, plain = (ResidualBlock(4, branches, 0.25, plain=plain) for plain in (False, True))
    plain.load_state_dict(block.state_dict())
    x = torch.randn(2, 4, 6, 6)
    both = torch.cat([branches.a(x), branches.b(x)], dim=1)
    residual = nn.functional.conv2d(both, block.project.weight, block.project.bias)
    torch.testing.assert_close(block(x), (x + 0.25 * residual).clamp(min=0))
    torch.testing.assert_close(plain(x), x + 0.25 * residual)
    assert (plain(x) < 0).any()


@pytest.mark.parametrize(("variant", "channels"), [("v2", 1152), ("v2_tf_slim", 1088)])
def test_auxiliary_head(variant, channels: int) -> None:
    head = on_meta(variant, aux_head=True).aux_head
    assert head.conv_1x1.conv.weight.shape == (128, channels, 1, 1)
    assert head.conv_grid.conv.weight.shape == (768, 128, 5, 5)
    assert on_meta(variant).aux_head is None


def test_the_scale_keeps_the_trunk_from_growing() -> None:
    # What Figure 20 is for: with as many blocks, the unscaled sum grows much faster.
    torch.manual_seed(0)
    scaled = InceptionResNet("v2", num_classes=4, width=0.125)
    torch.manual_seed(0)
    plain = InceptionResNet("v2", num_classes=4, width=0.125, residual_scale=1.0)
    x = torch.randn(4, 3, 107, 107)
    with torch.no_grad():
        assert plain.forward_features(x).std() > 3 * scaled.forward_features(x).std()


def test_without_the_shortcut_a_block_gives_its_residual_alone() -> None:
    torch.manual_seed(0)
    added, alone = (InceptionResNet("v1", num_classes=3, width=0.125, shortcut=shortcut).eval() for shortcut in (True, False))
    assert added.state_dict().keys() == alone.state_dict().keys()
    alone.load_state_dict(added.state_dict())
    for name in ("blocks_a", "blocks_b", "blocks_c"):
        with_it, without = getattr(added, name)[0], getattr(alone, name)[0]
        x = torch.rand(2, with_it.out_channels, 5, 5)
        residual = with_it.project(with_it.branches(x))
        assert torch.equal(without(x), residual.relu())
        assert torch.allclose(with_it(x), (x + with_it.scale * residual).relu(), atol=1e-6)


def test_the_extra_batch_norm_is_before_the_pool() -> None:
    torch.manual_seed(0)
    model = InceptionResNet("v2", num_classes=3, width=0.125, extra_batch_norm=True)
    seen = []
    model.extra_batch_norm.register_forward_hook(lambda _, given, made: seen.append((given[0], made)))
    model(torch.rand(4, 3, 75, 75) * 2 - 1)
    ((given, made),) = seen
    assert given.shape == (4, 280, 1, 1)
    assert made.mean(dim=(0, 2, 3)).abs().max() < 1e-5 and given.mean() > 0
    plain = on_meta("v2", num_classes=3, width=0.125)
    assert count_parameters(model) == count_parameters(plain) + 2 * 280


@pytest.mark.parametrize(("option", "value"), [("shortcut", False), ("extra_batch_norm", True)])
def test_other_networks_have_no_such_blocks(option: str, value: bool) -> None:
    with pytest.raises(RecipeError, match=f"{option}: inception_v4 has no"):
        build_model("inception_v4", num_classes=3, **{option: value})
    model = build_model("inception_resnet_v1", num_classes=3, width=0.125, **{option: value})
    assert model.extra_batch_norm is not None or not model.blocks_a[0].shortcut
