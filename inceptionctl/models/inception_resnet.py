"""Inception-ResNet-v1 and -v2: Szegedy, Ioffe, Vanhoucke, Alemi, arXiv 1602.07261, Figure 15; and TF-slim's own v2.

The v2 of the paper and the one whose weights everyone has differ in stem, repeats and head: see `VARIANTS`. Sizes in comments are
H x W x C at 299 px and width 1, C in the order v1 | v2 | v2 of TF-slim. A convolution is same-padded unless it says "valid";
kernels are (height, width).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from inceptionctl.models.inception_v3 import inception_5x5, stem_to_71_px
from inceptionctl.models.inception_v4 import Stem, reduction_a
from inceptionctl.models.layers import (
    BATCH_NORM_EPS,
    BATCH_NORM_MOMENTUM,
    AuxHead,
    Channels,
    Conv,
    ConvNormAct,
    DropPath,
    ImageClassifier,
    Parallel,
    check_input_px,
    init_weights,
    max_pool_3x3_reduce,
    scale_channels,
)
from inceptionctl.models.summary import Stage

# What this family is called and has; models/__init__.py reads it without importing torch, so it holds literals alone.
FAMILY = {
    "class": "InceptionResNet",
    "default_input_px": 299,
    "min_input_px": 75,
    "residual_scale": (0.17, 0.10, 0.20),
    "networks": {
        "inception_resnet_v1": {
            "arguments": {"variant": "v1"},
            "source": "Szegedy et al., arXiv 1602.07261, Figures 10 to 15",
            "paper_top1_error_percent": 21.3,
            "paper_top5_error_percent": 5.5,
        },
        "inception_resnet_v2": {
            "arguments": {"variant": "v2"},
            "source": "Szegedy et al., arXiv 1602.07261, Figures 3 and 15 to 19",
            "paper_top1_error_percent": 19.9,
            "paper_top5_error_percent": 4.9,
            "aux_head": False,
            "aux_head_min_input_px": 107,
        },
        # Another stem, twice the blocks and another head: the network of the published weights is not the paper's.
        "inception_resnet_v2_tf_slim": {
            "arguments": {"variant": "v2_tf_slim"},
            "source": "TF-slim's nets/inception_resnet_v2.py, after Szegedy et al., arXiv 1602.07261, Figures 14 and 16 to 19",
            "aux_head": False,
            "aux_head_min_input_px": 107,
        },
    },
}

DEFAULT_INPUT_PX = 299
MIN_INPUT_PX = 75  # leave a last grid of 1 x 1

# The paper gives 0.1 to 0.3; these are TF-slim's, for the blocks of the 35 x 35, 17 x 17 and 8 x 8 grid.
RESIDUAL_SCALE = (0.17, 0.10, 0.20)

ResidualScale = float | tuple[float, float, float]
Variant = Literal["v1", "v2", "v2_tf_slim"]


@dataclass(frozen=True)
class VariantSpec:
    """The numbers in which the variants differ, as the figures print them; channels are those of width 1."""

    network: str
    repeats: tuple[int, int, int]
    """Blocks of the 35 x 35, 17 x 17 and 8 x 8 grid."""
    chain_a: tuple[int, int]
    """Inception-ResNet-A: both 3x3 convolutions of the longest branch."""
    reduction_a: tuple[int, int, int, int]
    """k, l, m, n of Table 1."""
    block_b: tuple[int, int, int, int]
    """Inception-ResNet-B: the lone 1x1, then 1x1, 1x7 and 7x1 of the chain."""
    reduction_b: tuple[int, int, int]
    """The last convolution of each of its three branches."""
    block_c: tuple[int, int, int, int]
    """Inception-ResNet-C: the lone 1x1, then 1x1, 1x3 and 3x1 of the chain."""
    conv_head: int | None
    """1x1 convolution before the pool; none in the paper."""
    last_block_is_plain: bool
    """The last block adds its residual unscaled and has no ReLU."""
    figures: dict[str, str]
    """Figure of each part."""


V2 = VariantSpec(
    network="Inception-ResNet-v2",
    repeats=(5, 10, 5),
    chain_a=(48, 64),
    reduction_a=(256, 256, 384, 384),
    block_b=(192, 128, 160, 192),
    reduction_b=(384, 288, 320),
    block_c=(192, 192, 224, 256),
    conv_head=None,
    last_block_is_plain=False,
    figures={"stem": "3", "a": "16", "b": "17", "reduction_b": "18", "c": "19"},
)
VARIANTS: dict[Variant, VariantSpec] = {
    "v1": VariantSpec(
        network="Inception-ResNet-v1",
        repeats=(5, 10, 5),
        chain_a=(32, 32),
        reduction_a=(192, 192, 256, 384),
        block_b=(128, 128, 128, 128),
        reduction_b=(384, 256, 256),
        block_c=(192, 192, 192, 192),
        conv_head=None,
        last_block_is_plain=False,
        figures={"stem": "14", "a": "10", "b": "11", "reduction_b": "12", "c": "13"},
    ),
    "v2": V2,
    "v2_tf_slim": replace(
        V2,
        network="TF-slim's Inception-ResNet-v2",
        repeats=(10, 20, 10),
        conv_head=1536,
        last_block_is_plain=True,
        figures=V2.figures | {"stem": "14"},
    ),
}


class ResidualBlock(nn.Module):
    """x + scale * project(branches(x)), then ReLU: (N, C, H, W) -> (N, C, H, W). Figure 20 draws the scale.

    `project` is the figures' linear 1x1: bias, no batch norm, no activation. `plain` leaves the ReLU out. Without the `shortcut` x is not
    added, and so nothing is scaled: the control that tells the addition's effect from that of the blocks.
    """

    def __init__(self, channels: int, branches: Parallel, scale: float, *, plain: bool = False, shortcut: bool = True) -> None:
        super().__init__()
        self.branches = branches
        self.project = nn.Conv2d(branches.out_channels, channels, 1)
        self.drop_path = DropPath()
        self.scale = scale
        self.shortcut = shortcut
        self.act = nn.Identity() if plain else nn.ReLU(inplace=True)
        self.out_channels = channels

    def extra_repr(self) -> str:
        """The scale, for `print`."""
        return f"scale={self.scale:g}" if self.shortcut else "no shortcut"

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        residual = self.drop_path(self.project(self.branches(x)))
        y: Tensor = self.act(torch.add(x, residual, alpha=self.scale) if self.shortcut else residual)
        return y


def branches_a(in_channels: int, conv: Conv, c: Channels, spec: VariantSpec) -> Parallel:
    """Branches of Inception-ResNet-A, Figures 10 and 16: (N, 256 | 384 | 320, 35, 35) -> (N, 96 | 128 | 128, 35, 35)."""
    first, second = spec.chain_a
    return Parallel(
        out_channels=2 * c(32) + c(second),
        branch_1x1=conv(in_channels, c(32), 1),
        branch_3x3=nn.Sequential(
            conv(in_channels, c(32), 1),
            conv(c(32), c(32), 3),
        ),
        branch_double_3x3=nn.Sequential(
            conv(in_channels, c(32), 1),
            conv(c(32), c(first), 3),
            conv(c(first), c(second), 3),
        ),
    )


def branches_b(in_channels: int, conv: Conv, c: Channels, spec: VariantSpec) -> Parallel:
    """Branches of Inception-ResNet-B, Figures 11 and 17: (N, 896 | 1152 | 1088, 17, 17) -> (N, 256 | 384 | 384, 17, 17)."""
    single, first, second, third = spec.block_b
    return Parallel(
        out_channels=c(single) + c(third),
        branch_1x1=conv(in_channels, c(single), 1),
        branch_7x7=nn.Sequential(
            conv(in_channels, c(first), 1),
            conv(c(first), c(second), (1, 7)),
            conv(c(second), c(third), (7, 1)),
        ),
    )


def reduction_b(in_channels: int, conv: Conv, c: Channels, spec: VariantSpec) -> Parallel:
    """Reduction-B, Figures 12 and 18: (N, 896 | 1152 | 1088, 17, 17) -> (N, 1792 | 2144 | 2080, 8, 8)."""
    long, short, double = spec.reduction_b
    return Parallel(
        out_channels=c(long) + c(short) + c(double) + in_channels,
        branch_3x3=nn.Sequential(
            conv(in_channels, c(256), 1),
            conv(c(256), c(long), 3, stride=2, padding="valid"),
        ),
        branch_3x3_narrow=nn.Sequential(
            conv(in_channels, c(256), 1),
            conv(c(256), c(short), 3, stride=2, padding="valid"),
        ),
        branch_double_3x3=nn.Sequential(
            conv(in_channels, c(256), 1),
            conv(c(256), c(short), 3),
            conv(c(short), c(double), 3, stride=2, padding="valid"),
        ),
        branch_pool=max_pool_3x3_reduce(),
    )


def branches_c(in_channels: int, conv: Conv, c: Channels, spec: VariantSpec) -> Parallel:
    """Branches of Inception-ResNet-C, Figures 13 and 19: (N, 1792 | 2144 | 2080, 8, 8) -> (N, 384 | 448 | 448, 8, 8)."""
    single, first, second, third = spec.block_c
    return Parallel(
        out_channels=c(single) + c(third),
        branch_1x1=conv(in_channels, c(single), 1),
        branch_3x3=nn.Sequential(
            conv(in_channels, c(first), 1),
            conv(c(first), c(second), (1, 3)),
            conv(c(second), c(third), (3, 1)),
        ),
    )


def build_stem(variant: Variant, conv: Conv, c: Channels) -> tuple[nn.Module, int]:
    """The stem and its number of channels: (N, 3, 299, 299) -> (N, 256 | 384 | 320, 35, 35)."""
    if variant == "v2":
        stem = Stem(conv, c)
        return stem, stem.out_channels
    layers = stem_to_71_px(conv, c)
    # 71 x 71 x 192
    if variant == "v1":
        layers["conv_6"] = conv(c(192), c(256), 3, stride=2, padding="valid")
        # 35 x 35 x 256
        return nn.Sequential(layers), c(256)
    layers["pool_2"] = max_pool_3x3_reduce()
    # 35 x 35 x 192
    layers["mixed"] = mixed = inception_5x5(c(192), conv, c, single=96, pool=64)
    # 35 x 35 x 320
    return nn.Sequential(layers), mixed.out_channels


def stages(variant: Variant, stem: nn.Module) -> tuple[Stage, ...]:
    """What `summary.endpoints` lists, in the order of the forward pass."""
    spec = VARIANTS[variant]
    fig, (num_a, num_b, num_c) = spec.figures, spec.repeats
    own = {"pool_2", "mixed"} if variant == "v2_tf_slim" else set()  # the paper has no such layers
    of_stem = [Stage(f"stem.{name}", "TF-slim" if name in own else f"Fig. {fig['stem']}") for name, _ in stem.named_children()]
    body = [
        Stage("blocks_a", f"{num_a} x Fig. {fig['a']}"),
        Stage("reduction_a", "Fig. 7, Table 1"),
        Stage("blocks_b", f"{num_b} x Fig. {fig['b']}"),
        Stage("reduction_b", f"Fig. {fig['reduction_b']}"),
        Stage("blocks_c", f"{num_c} x Fig. {fig['c']}"),
    ]
    head = [Stage("conv_head", "TF-slim")] if spec.conv_head else []
    return (*of_stem, *body, *head, Stage("pool", "Fig. 15"), Stage("classifier", "Fig. 15"))


def scales_of_grids(residual_scale: ResidualScale) -> tuple[float, float, float]:
    """One scale for each of the three grids. Raises ValueError for one that is not positive and finite."""
    scales = (residual_scale,) * 3 if isinstance(residual_scale, int | float) else tuple(residual_scale)
    if len(scales) != 3 or not all(math.isfinite(scale) and scale > 0 for scale in scales):
        raise ValueError(f"residual_scale must be one positive number, or three for the three grids, got {residual_scale}")
    a, b, c = scales
    return a, b, c


def _blocks_c(
    channels: int, conv: Conv, c: Channels, spec: VariantSpec, scale: float, *, shortcut: bool
) -> Iterable[ResidualBlock]:
    repeats = spec.repeats[2]
    for number in range(1, repeats + 1):
        plain = spec.last_block_is_plain and number == repeats
        branches = branches_c(channels, conv, c, spec)
        yield ResidualBlock(channels, branches, 1.0 if plain else scale, plain=plain, shortcut=shortcut)


class InceptionResNet(ImageClassifier):
    """Inception-ResNet, Figure 15: images (N, 3, H, W), H and W at least 75 px, 299 in the paper -> logits (N, num_classes).

    Training with the auxiliary head gives two logits. Initialised from torch's global random state, which also feeds the dropout, as
    TF-slim's Inception-v4 is: its inception_resnet_v2 names no initialiser, so that its convolutions are Glorot uniform, and the paper
    does not say.

    `variant` "v1" and "v2" are the paper's, "v2_tf_slim" is the network of the published weights: a v1-like stem and one Inception
    block, 10, 20 and 10 residual blocks, the last of them plain, and a 1x1 convolution before the pool. `residual_scale` multiplies
    the residuals before the addition: one number, or one each for the 35 x 35, 17 x 17 and 8 x 8 grid; 1.0 switches it off.
    `shortcut` is false for the same blocks without the addition; `extra_batch_norm` puts a batch norm before the pool, one of the cures
    that the paper found not to help (section 3.3).
    `width` multiplies every number of channels (see `scale_channels`). `dropout` is the share dropped: the paper keeps 0.8.
    `batch_norm_momentum` is torch's: 1 - 0.9997 of TF-slim. `input_px` is the side that the auxiliary head is built for; without
    the head any side of at least 75 px passes. Raises ValueError for an argument out of its range.
    """

    def __init__(
        self,
        variant: Variant,
        num_classes: int = 1000,
        width: float = 1.0,
        dropout: float = 0.2,
        batch_norm_momentum: float = BATCH_NORM_MOMENTUM,
        batch_norm_eps: float = BATCH_NORM_EPS,
        residual_scale: ResidualScale = RESIDUAL_SCALE,
        input_px: int = DEFAULT_INPUT_PX,
        aux_head: bool = False,
        *,
        shortcut: bool = True,
        extra_batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.spec = spec = VARIANTS[variant]
        conv = partial(ConvNormAct, batch_norm_momentum=batch_norm_momentum, batch_norm_eps=batch_norm_eps)
        c = partial(scale_channels, width=width)
        scale_a, scale_b, scale_c = scales_of_grids(residual_scale)
        num_a, num_b, _ = spec.repeats
        block = partial(ResidualBlock, shortcut=shortcut)

        # 299 x 299 x 3
        self.stem, channels = build_stem(variant, conv, c)
        # 35 x 35 x 256 | 384 | 320
        self.blocks_a = nn.Sequential(*(block(channels, branches_a(channels, conv, c, spec), scale_a) for _ in range(num_a)))
        # 35 x 35 x 256 | 384 | 320
        k, l, m, n = (c(size) for size in spec.reduction_a)  # noqa: E741  the paper's letters
        self.reduction_a = reduction_a(channels, conv, k=k, l=l, m=m, n=n)
        middle_channels = channels = self.reduction_a.out_channels
        # 17 x 17 x 896 | 1152 | 1088
        self.blocks_b = nn.Sequential(*(block(channels, branches_b(channels, conv, c, spec), scale_b) for _ in range(num_b)))
        # 17 x 17 x 896 | 1152 | 1088
        self.reduction_b = reduction_b(channels, conv, c, spec)
        channels = self.reduction_b.out_channels
        # 8 x 8 x 1792 | 2144 | 2080
        self.blocks_c = nn.Sequential(*_blocks_c(channels, conv, c, spec, scale_c, shortcut=shortcut))
        # 8 x 8 x 1792 | 2144 | 2080
        self.conv_head = conv(channels, c(spec.conv_head), 1) if spec.conv_head else None
        channels = c(spec.conv_head) if spec.conv_head else channels
        norm = nn.BatchNorm2d(channels, batch_norm_eps, batch_norm_momentum) if extra_batch_norm else None
        self.extra_batch_norm = norm
        # 8 x 8 x 1792 | 2144 | 1536
        self.add_classifier(channels, num_classes, dropout)
        self.aux_head = AuxHead(middle_channels, num_classes, input_px, conv, c) if aux_head else None
        self.STAGES = stages(variant, self.stem)
        init_weights(self)

    def forward_middle(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) -> the grid that the auxiliary head is fed, (N, 896 | 1152 | 1088, 17, 17) at 299 px, width 1."""
        check_input_px(min(x.shape[-2:]), MIN_INPUT_PX, self.spec.network)
        x = self.stem(x)  # 35 x 35 x 256 | 384 | 320
        x = self.blocks_a(x)  # 35 x 35 x 256 | 384 | 320
        x = self.reduction_a(x)  # 17 x 17 x 896 | 1152 | 1088
        x = self.blocks_b(x)  # 17 x 17 x 896 | 1152 | 1088
        return x

    def forward_last(self, x: Tensor) -> Tensor:
        """From what `forward_middle` gives to the last grid, (N, 1792 | 2144 | 1536, 8, 8) at 299 px and width 1."""
        x = self.reduction_b(x)  # 8 x 8 x 1792 | 2144 | 2080
        x = self.blocks_c(x)  # 8 x 8 x 1792 | 2144 | 2080
        x = x if self.conv_head is None else self.conv_head(x)  # 8 x 8 x 1792 | 2144 | 1536
        return x if self.extra_batch_norm is None else self.extra_batch_norm(x)
