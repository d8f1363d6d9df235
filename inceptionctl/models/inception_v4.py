"""Inception-v4: Szegedy, Ioffe, Vanhoucke, Alemi, arXiv 1602.07261, Figure 9.

Sizes in comments are H x W x C at 299 px and width 1. A convolution is same-padded unless it says "valid"; kernels are
(height, width).
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from torch import Tensor, nn

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
    init_weights,
    max_pool_3x3_reduce,
    scale_channels,
)
from inceptionctl.models.summary import Stage

# What this family is called and has; models/__init__.py reads it without importing torch, so it holds literals alone.
FAMILY = {
    "class": "InceptionV4",
    "default_input_px": 299,
    "min_input_px": 75,
    "paper_top1_error_percent": 20.0,
    "paper_top5_error_percent": 5.0,
    "aux_head": False,
    "aux_head_min_input_px": 107,
    "networks": {
        "inception_v4": {"source": "Szegedy et al., arXiv 1602.07261, Figure 9"},
        # The same network at the same cost, but three chains of 1x7 / 7x1 and 1x3 / 3x1 run the other way round, as in the weights
        # that TF-slim published and in the ports of them: those fit this one alone.
        "inception_v4_tf_slim": {
            "arguments": {"kernel_order": "tf_slim"},
            "source": "Szegedy et al., arXiv 1602.07261, Figure 9, with the kernel order of TF-slim's nets/inception_v4.py",
        },
    },
}

DEFAULT_INPUT_PX = 299
MIN_INPUT_PX = 75  # leave a last grid of 1 x 1

# Three of the 1x7 / 7x1 and 1x3 / 3x1 chains run in one order in the paper's figures and in the other in TF-slim, whose weights
# everyone has. Parameters and multiply-adds are the same; weights fit only the order that they were trained in.
KernelOrder = Literal["paper", "tf_slim"]


class Stem(nn.Module):
    """The stem of Inception-v4 and Inception-ResNet-v2, Figure 3: (N, 3, 299, 299) -> (N, 384, 35, 35)."""

    def __init__(self, conv: Conv, c: Channels, kernel_order: KernelOrder = "paper") -> None:
        super().__init__()
        first, second = ((7, 1), (1, 7)) if kernel_order == "paper" else ((1, 7), (7, 1))
        # 299 x 299 x 3
        self.conv_1 = conv(3, c(32), 3, stride=2, padding="valid")
        # 149 x 149 x 32
        self.conv_2 = conv(c(32), c(32), 3, padding="valid")
        # 147 x 147 x 32
        self.conv_3 = conv(c(32), c(64), 3)
        # 147 x 147 x 64
        self.mixed_1 = Parallel(
            out_channels=c(64) + c(96),
            pool=max_pool_3x3_reduce(),
            conv=conv(c(64), c(96), 3, stride=2, padding="valid"),
        )
        # 73 x 73 x 160
        self.mixed_2 = Parallel(
            out_channels=2 * c(96),
            branch_3x3=nn.Sequential(
                conv(self.mixed_1.out_channels, c(64), 1),
                conv(c(64), c(96), 3, padding="valid"),
            ),
            branch_7x7=nn.Sequential(
                conv(self.mixed_1.out_channels, c(64), 1),
                conv(c(64), c(64), first),
                conv(c(64), c(64), second),
                conv(c(64), c(96), 3, padding="valid"),
            ),
        )
        # 71 x 71 x 192
        self.mixed_3 = Parallel(
            out_channels=c(192) + self.mixed_2.out_channels,
            # The figure prints no stride here, but halves the grid.
            conv=conv(self.mixed_2.out_channels, c(192), 3, stride=2, padding="valid"),
            pool=max_pool_3x3_reduce(),
        )
        # 35 x 35 x 384
        self.out_channels = self.mixed_3.out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 299, 299) -> (N, 384, 35, 35)."""
        x = self.conv_3(self.conv_2(self.conv_1(x)))
        x = self.mixed_3(self.mixed_2(self.mixed_1(x)))
        return x


def inception_a(in_channels: int, conv: Conv, c: Channels) -> Parallel:
    """Inception-A, Figure 4: (N, 384, 35, 35) -> (N, 384, 35, 35)."""
    return Parallel(
        out_channels=4 * c(96),
        branch_1x1=conv(in_channels, c(96), 1),
        branch_3x3=nn.Sequential(
            conv(in_channels, c(64), 1),
            conv(c(64), c(96), 3),
        ),
        branch_double_3x3=nn.Sequential(
            conv(in_channels, c(64), 1),
            conv(c(64), c(96), 3),
            conv(c(96), c(96), 3),
        ),
        branch_pool=nn.Sequential(
            average_pool_3x3(),
            conv(in_channels, c(96), 1),
        ),
    )


def reduction_a(in_channels: int, conv: Conv, *, k: int, l: int, m: int, n: int) -> Parallel:  # noqa: E741  the paper's letters
    """Reduction-A, Figure 7, with the k, l, m, n of Table 1: (N, C, 35, 35) -> (N, n + m + C, 17, 17).

    Figure 10 of arXiv 1512.00567 is the same block: Inception-v3 has k 64, l 96, m 96 and n 384.
    """
    return Parallel(
        out_channels=n + m + in_channels,
        branch_3x3=conv(in_channels, n, 3, stride=2, padding="valid"),
        branch_double_3x3=nn.Sequential(
            conv(in_channels, k, 1),
            conv(k, l, 3),
            conv(l, m, 3, stride=2, padding="valid"),
        ),
        branch_pool=max_pool_3x3_reduce(),
    )


def inception_b(in_channels: int, conv: Conv, c: Channels, kernel_order: KernelOrder = "paper") -> Parallel:
    """Inception-B, Figure 5: (N, 1024, 17, 17) -> (N, 1024, 17, 17)."""
    first, second = ((1, 7), (7, 1)) if kernel_order == "paper" else ((7, 1), (1, 7))
    return Parallel(
        out_channels=c(384) + 2 * c(256) + c(128),
        branch_1x1=conv(in_channels, c(384), 1),
        branch_7x7=nn.Sequential(
            conv(in_channels, c(192), 1),
            conv(c(192), c(224), (1, 7)),
            # The figure prints 1x7 twice; 7x1 is the only reading that makes the pair a 7x7.
            conv(c(224), c(256), (7, 1)),
        ),
        branch_double_7x7=nn.Sequential(
            conv(in_channels, c(192), 1),
            conv(c(192), c(192), first),
            conv(c(192), c(224), second),
            conv(c(224), c(224), first),
            conv(c(224), c(256), second),
        ),
        branch_pool=nn.Sequential(
            average_pool_3x3(),
            conv(in_channels, c(128), 1),
        ),
    )


def reduction_b(in_channels: int, conv: Conv, c: Channels) -> Parallel:
    """Reduction-B, Figure 8: (N, 1024, 17, 17) -> (N, 1536, 8, 8)."""
    return Parallel(
        out_channels=c(192) + c(320) + in_channels,
        branch_3x3=nn.Sequential(
            conv(in_channels, c(192), 1),
            conv(c(192), c(192), 3, stride=2, padding="valid"),
        ),
        branch_7x7=nn.Sequential(
            conv(in_channels, c(256), 1),
            conv(c(256), c(256), (1, 7)),
            conv(c(256), c(320), (7, 1)),
            conv(c(320), c(320), 3, stride=2, padding="valid"),
        ),
        branch_pool=max_pool_3x3_reduce(),
    )


def fork(in_channels: int, out_channels: int, conv: Conv) -> Parallel:
    """1x3 and 3x1 of the same input: (N, in_channels, 8, 8) -> (N, 2 x out_channels, 8, 8)."""
    return Parallel(
        out_channels=2 * out_channels,
        conv_1x3=conv(in_channels, out_channels, (1, 3)),
        conv_3x1=conv(in_channels, out_channels, (3, 1)),
    )


def inception_c(in_channels: int, conv: Conv, c: Channels, kernel_order: KernelOrder = "paper") -> Parallel:
    """Inception-C, Figure 6: (N, 1536, 8, 8) -> (N, 1536, 8, 8). Two branches end in a fork: 1x3 and 3x1 of the same input."""
    first, second = ((1, 3), (3, 1)) if kernel_order == "paper" else ((3, 1), (1, 3))

    return Parallel(
        out_channels=6 * c(256),
        branch_1x1=conv(in_channels, c(256), 1),
        branch_fork=nn.Sequential(
            conv(in_channels, c(384), 1),
            fork(c(384), c(256), conv),
        ),
        branch_3x3_fork=nn.Sequential(
            conv(in_channels, c(384), 1),
            conv(c(384), c(448), first),
            conv(c(448), c(512), second),
            fork(c(512), c(256), conv),
        ),
        branch_pool=nn.Sequential(
            average_pool_3x3(),
            conv(in_channels, c(256), 1),
        ),
    )


class InceptionV4(ImageClassifier):
    """Inception-v4, Figure 9: images (N, 3, H, W), H and W at least 75 px, 299 in the paper -> logits (N, num_classes).

    Training with the auxiliary head gives two logits. Initialised as TF-slim does, from torch's global random state, which also
    feeds the dropout; 42.7 M parameters at width 1 and 1000 classes. `width` multiplies every number of channels (see
    `scale_channels`). `dropout` is the share dropped: the paper keeps 0.8. `batch_norm_momentum` is torch's: 1 - 0.9997 of TF-slim.
    `kernel_order` says in which order the factorised convolutions of the stem, Inception-B and Inception-C follow each other: as the
    figures print them, or as TF-slim and the weights made by it (timm's among them) have them. `aux_head` adds TF-slim's auxiliary head
    for training on images of `input_px`; without it any side of at least 75 px passes. Raises ValueError for an argument out of its range.
    """

    # What `summary.endpoints` lists, in the order of the forward pass.
    STAGES = (
        Stage("stem.conv_1", "Fig. 3"),
        Stage("stem.conv_2", "Fig. 3"),
        Stage("stem.conv_3", "Fig. 3"),
        Stage("stem.mixed_1", "Fig. 3"),
        Stage("stem.mixed_2", "Fig. 3"),
        Stage("stem.mixed_3", "Fig. 3"),
        Stage("blocks_a", "4 x Fig. 4"),
        Stage("reduction_a", "Fig. 7, Table 1"),
        Stage("blocks_b", "7 x Fig. 5"),
        Stage("reduction_b", "Fig. 8"),
        Stage("blocks_c", "3 x Fig. 6"),
        Stage("pool", "Fig. 9"),
        Stage("classifier", "Fig. 9"),
    )

    def __init__(
        self,
        num_classes: int = 1000,
        width: float = 1.0,
        dropout: float = 0.2,
        batch_norm_momentum: float = BATCH_NORM_MOMENTUM,
        batch_norm_eps: float = BATCH_NORM_EPS,
        kernel_order: KernelOrder = "paper",
        input_px: int = DEFAULT_INPUT_PX,
        aux_head: bool = False,
    ) -> None:
        super().__init__()
        conv = partial(ConvNormAct, batch_norm_momentum=batch_norm_momentum, batch_norm_eps=batch_norm_eps)
        c = partial(scale_channels, width=width)

        # 299 x 299 x 3
        self.stem = Stem(conv, c, kernel_order)
        channels = self.stem.out_channels
        # 35 x 35 x 384
        self.blocks_a = nn.Sequential()
        for _ in range(4):
            self.blocks_a.append(block := inception_a(channels, conv, c))
            channels = block.out_channels
        # 35 x 35 x 384
        self.reduction_a = reduction_a(channels, conv, k=c(192), l=c(224), m=c(256), n=c(384))
        channels = self.reduction_a.out_channels
        # 17 x 17 x 1024
        self.blocks_b = nn.Sequential()
        for _ in range(7):
            self.blocks_b.append(block := inception_b(channels, conv, c, kernel_order))
            channels = block.out_channels
        # 17 x 17 x 1024
        middle_channels = channels
        self.reduction_b = reduction_b(channels, conv, c)
        channels = self.reduction_b.out_channels
        # 8 x 8 x 1536
        self.blocks_c = nn.Sequential()
        for _ in range(3):
            self.blocks_c.append(block := inception_c(channels, conv, c, kernel_order))
            channels = block.out_channels
        # 8 x 8 x 1536
        self.add_classifier(channels, num_classes, dropout)
        self.aux_head = AuxHead(middle_channels, num_classes, input_px, conv, c) if aux_head else None
        init_weights(self)

    def forward_middle(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) -> the grid that the auxiliary head is fed, (N, 1024 x width, 17, 17) at 299 px."""
        check_input_px(min(x.shape[-2:]), MIN_INPUT_PX, "Inception-v4")
        x = self.stem(x)  # 35 x 35 x 384
        x = self.blocks_a(x)  # 35 x 35 x 384
        x = self.reduction_a(x)  # 17 x 17 x 1024
        x = self.blocks_b(x)  # 17 x 17 x 1024
        return x

    def forward_last(self, x: Tensor) -> Tensor:
        """From what `forward_middle` gives to the last grid, (N, 1536 x width, 8, 8) at 299 px."""
        x = self.reduction_b(x)  # 8 x 8 x 1536
        x = self.blocks_c(x)  # 8 x 8 x 1536
        return x
