"""Inception-v3: Szegedy, Vanhoucke, Ioffe, Shlens, Wojna, "Rethinking the Inception Architecture", arXiv 1512.00567, Table 1.

The paper's table and figures leave the numbers of channels open, and its stem is not the one whose weights everyone has; where
they differ this is TF-slim's nets/inception_v3.py, the authors' own code. Sizes in comments are H x W x C at 299 px and width 1.
A convolution is same-padded unless it says "valid"; kernels are (height, width).
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Literal

from torch import Tensor, nn

from inceptionctl.models.inception_v4 import fork, reduction_a
from inceptionctl.models.layers import (
    BATCH_NORM_EPS,
    BATCH_NORM_MOMENTUM,
    AuxHead,
    Channels,
    Conv,
    ConvNormAct,
    ImageClassifier,
    Parallel,
    average_pool_3x3,
    check_input_px,
    init_as_inception_v3,
    init_weights,
    max_pool_3x3_reduce,
    scale_channels,
)
from inceptionctl.models.summary import Stage

# What this family is called and has; models/__init__.py reads it without importing torch, so it holds literals alone.
FAMILY = {
    "class": "InceptionV3",
    "default_input_px": 299,
    "min_input_px": 75,
    "paper_top1_error_percent": 21.2,
    "paper_top5_error_percent": 5.6,
    "aux_head": True,
    "aux_head_min_input_px": 107,
    "networks": {
        "inception_v3": {
            "source": "Szegedy et al., arXiv 1512.00567, Table 1, with the channels of TF-slim's nets/inception_v3.py",
        },
        # The same weights fit, but the 3x3 average pools count the padding, so the logits differ.
        "inception_v3_torchvision": {
            "arguments": {"average_pool": "torchvision"},
            "source": "Szegedy et al., arXiv 1512.00567, Table 1, with the average pools of torchvision's and timm's inception_v3",
        },
    },
}

DEFAULT_INPUT_PX = 299
MIN_INPUT_PX = 75  # leave a last grid of 1 x 1

# Whether the 3x3 average pools count the zeros around the image. Parameters are the same, logits are not.
AveragePool = Literal["tf_slim", "torchvision"]


def stem_to_71_px(conv: Conv, c: Channels) -> OrderedDict[str, nn.Module]:
    """Layers of the stem, without the last, that Inception-v3, Inception-ResNet-v1 and TF-slim's Inception-ResNet-v2 share.

    (N, 3, 299, 299) -> (N, 192, 71, 71).
    """
    return OrderedDict(
        # 299 x 299 x 3
        conv_1=conv(3, c(32), 3, stride=2, padding="valid"),
        # 149 x 149 x 32
        conv_2=conv(c(32), c(32), 3, padding="valid"),
        # 147 x 147 x 32
        conv_3=conv(c(32), c(64), 3),
        # 147 x 147 x 64
        pool_1=max_pool_3x3_reduce(),
        # 73 x 73 x 64
        conv_4=conv(c(64), c(80), 1),
        # 73 x 73 x 80
        conv_5=conv(c(80), c(192), 3, padding="valid"),
        # 71 x 71 x 192
    )


def inception_5x5(
    in_channels: int, conv: Conv, c: Channels, *, single: int, pool: int, counts_padding: bool = False
) -> Parallel:
    """The block of the 35 x 35 grid: (N, C, 35, 35) -> (N, single + 64 + 96 + pool, 35, 35).

    Figure 5 of arXiv 1512.00567, but that one branch keeps its 5x5 kernel. `single` and `pool` are the channels, at width 1, of
    the lone 1x1 convolution and of the one after the pool: Inception-v3 has 64 and 32 or 64, Inception-ResNet-v2 96 and 64.
    """
    return Parallel(
        out_channels=c(single) + c(64) + c(96) + c(pool),
        branch_1x1=conv(in_channels, c(single), 1),
        branch_5x5=nn.Sequential(
            conv(in_channels, c(48), 1),
            conv(c(48), c(64), 5),
        ),
        branch_double_3x3=nn.Sequential(
            conv(in_channels, c(64), 1),
            conv(c(64), c(96), 3),
            conv(c(96), c(96), 3),
        ),
        branch_pool=nn.Sequential(
            average_pool_3x3(counts_padding=counts_padding),
            conv(in_channels, c(pool), 1),
        ),
    )


def inception_7x7(in_channels: int, conv: Conv, c: Channels, *, inner: int, counts_padding: bool) -> Parallel:
    """The block of the 17 x 17 grid, Figure 6 with n = 7: (N, 768, 17, 17) -> (N, 768, 17, 17).

    `inner` is the channels inside the factorised branches at width 1: 128, 160, 160, 192 from block to block.
    """
    return Parallel(
        out_channels=4 * c(192),
        branch_1x1=conv(in_channels, c(192), 1),
        branch_7x7=nn.Sequential(
            conv(in_channels, c(inner), 1),
            conv(c(inner), c(inner), (1, 7)),
            conv(c(inner), c(192), (7, 1)),
        ),
        branch_double_7x7=nn.Sequential(
            conv(in_channels, c(inner), 1),
            conv(c(inner), c(inner), (7, 1)),
            conv(c(inner), c(inner), (1, 7)),
            conv(c(inner), c(inner), (7, 1)),
            conv(c(inner), c(192), (1, 7)),
        ),
        branch_pool=nn.Sequential(
            average_pool_3x3(counts_padding=counts_padding),
            conv(in_channels, c(192), 1),
        ),
    )


def reduction_b(in_channels: int, conv: Conv, c: Channels) -> Parallel:
    """TF-slim's second reduction, which the paper does not draw: (N, 768, 17, 17) -> (N, 1280, 8, 8)."""
    return Parallel(
        out_channels=c(320) + c(192) + in_channels,
        branch_3x3=nn.Sequential(
            conv(in_channels, c(192), 1),
            conv(c(192), c(320), 3, stride=2, padding="valid"),
        ),
        branch_7x7=nn.Sequential(
            conv(in_channels, c(192), 1),
            conv(c(192), c(192), (1, 7)),
            conv(c(192), c(192), (7, 1)),
            conv(c(192), c(192), 3, stride=2, padding="valid"),
        ),
        branch_pool=max_pool_3x3_reduce(),
    )


def inception_fork(in_channels: int, conv: Conv, c: Channels, *, counts_padding: bool) -> Parallel:
    """The block of the 8 x 8 grid, Figure 7: (N, C, 8, 8) -> (N, 2048, 8, 8). Two branches end in a fork: 1x3 and 3x1."""
    return Parallel(
        out_channels=c(320) + 4 * c(384) + c(192),
        branch_1x1=conv(in_channels, c(320), 1),
        branch_fork=nn.Sequential(
            conv(in_channels, c(384), 1),
            fork(c(384), c(384), conv),
        ),
        branch_3x3_fork=nn.Sequential(
            conv(in_channels, c(448), 1),
            conv(c(448), c(384), 3),
            fork(c(384), c(384), conv),
        ),
        branch_pool=nn.Sequential(
            average_pool_3x3(counts_padding=counts_padding),
            conv(in_channels, c(192), 1),
        ),
    )


class InceptionV3(ImageClassifier):
    """Inception-v3, Table 1 of arXiv 1512.00567: images (N, 3, H, W), H and W at least 75 px -> logits (N, num_classes).

    Training with the auxiliary head gives two logits. Initialised as TF-slim does, from torch's global random state, which also
    feeds the dropout; 23.8 M parameters, and 3.3 M of the auxiliary head. `width` multiplies every number of channels (see
    `scale_channels`). `dropout` is the share dropped: TF-slim keeps 0.8. `batch_norm_momentum` is torch's: 1 - 0.9997 of TF-slim.
    `input_px` is the side that the auxiliary head is built for; without the head any side of at least 75 px passes. `average_pool` says
    whether the 3x3 average pools leave the padding out of the mean, as the authors' code does, or count it, as torchvision and timm do.
    Raises ValueError for an argument out of its range.
    """

    STAGES = (
        Stage("stem.conv_1", "Table 1"),
        Stage("stem.conv_2", "Table 1"),
        Stage("stem.conv_3", "Table 1"),
        Stage("stem.pool_1", "Table 1"),
        Stage("stem.conv_4", "TF-slim"),
        Stage("stem.conv_5", "TF-slim"),
        Stage("stem.pool_2", "TF-slim"),
        Stage("blocks_a", "3 x Fig. 5"),
        Stage("reduction_a", "Fig. 10"),
        Stage("blocks_b", "4 x Fig. 6"),
        Stage("reduction_b", "TF-slim"),
        Stage("blocks_c", "2 x Fig. 7"),
        Stage("pool", "Table 1"),
        Stage("classifier", "Table 1"),
    )

    def __init__(
        self,
        num_classes: int = 1000,
        width: float = 1.0,
        dropout: float = 0.2,
        batch_norm_momentum: float = BATCH_NORM_MOMENTUM,
        batch_norm_eps: float = BATCH_NORM_EPS,
        input_px: int = DEFAULT_INPUT_PX,
        aux_head: bool = True,
        average_pool: AveragePool = "tf_slim",
    ) -> None:
        super().__init__()
        conv = partial(ConvNormAct, batch_norm_momentum=batch_norm_momentum, batch_norm_eps=batch_norm_eps)
        c = partial(scale_channels, width=width)
        counts_padding = average_pool == "torchvision"

        # 299 x 299 x 3
        self.stem = nn.Sequential(stem_to_71_px(conv, c))
        self.stem.add_module("pool_2", max_pool_3x3_reduce())
        channels = c(192)
        # 35 x 35 x 192
        self.blocks_a = nn.Sequential()
        for pool in (32, 64, 64):
            block = inception_5x5(channels, conv, c, single=64, pool=pool, counts_padding=counts_padding)
            self.blocks_a.append(block)
            channels = block.out_channels
        # 35 x 35 x 288, after 256 and 288
        self.reduction_a = reduction_a(channels, conv, k=c(64), l=c(96), m=c(96), n=c(384))
        channels = self.reduction_a.out_channels
        # 17 x 17 x 768
        self.blocks_b = nn.Sequential()
        for inner in (128, 160, 160, 192):
            self.blocks_b.append(block := inception_7x7(channels, conv, c, inner=inner, counts_padding=counts_padding))
            channels = block.out_channels
        # 17 x 17 x 768
        middle_channels = channels
        self.reduction_b = reduction_b(channels, conv, c)
        channels = self.reduction_b.out_channels
        # 8 x 8 x 1280
        self.blocks_c = nn.Sequential()
        for _ in range(2):
            self.blocks_c.append(block := inception_fork(channels, conv, c, counts_padding=counts_padding))
            channels = block.out_channels
        # 8 x 8 x 2048
        self.add_classifier(channels, num_classes, dropout)
        self.aux_head = AuxHead(middle_channels, num_classes, input_px, conv, c) if aux_head else None
        init_weights(self, classifier="convolution")
        if self.aux_head is not None:
            init_as_inception_v3(self.aux_head)

    def forward_middle(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) -> the grid that the auxiliary head is fed, (N, 768 x width, 17, 17) at 299 px."""
        check_input_px(min(x.shape[-2:]), MIN_INPUT_PX, "Inception-v3")
        x = self.stem(x)  # 35 x 35 x 192
        x = self.blocks_a(x)  # 35 x 35 x 288
        x = self.reduction_a(x)  # 17 x 17 x 768
        x = self.blocks_b(x)  # 17 x 17 x 768
        return x

    def forward_last(self, x: Tensor) -> Tensor:
        """From what `forward_middle` gives to the last grid, (N, 2048 x width, 8, 8) at 299 px."""
        x = self.reduction_b(x)  # 8 x 8 x 1280
        x = self.blocks_c(x)  # 8 x 8 x 2048
        return x
