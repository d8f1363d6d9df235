"""BN-Inception (Inception-v2 in TF-slim): Ioffe and Szegedy, "Batch Normalization", arXiv 1502.03167, Figure 5.

Where the figure contradicts itself this is TF-slim's nets/inception_v2.py, the authors' own code: the pool branches of 4c and 4d
(its 4d and 4e) have 96 channels, which alone gives the 576 and 1024 channels that the figure prints. Sizes in comments are H x W x C
at 224 px and width 1. Every layer is same-padded as TensorFlow does it, unevenly where the stride is 2.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from functools import partial

from torch import Tensor, nn

from inceptionctl.models.layers import (
    BATCH_NORM_EPS,
    BATCH_NORM_MOMENTUM,
    Channels,
    Conv,
    ConvNormAct,
    ImageClassifier,
    MaxPoolSame,
    Parallel,
    average_pool_3x3,
    check_input_px,
    init_weights,
    pad_same,
    scale_channels,
    truncated_normal,
)
from inceptionctl.models.summary import Stage

# What this family is called and has; models/__init__.py reads it without importing torch, so it holds literals alone.
FAMILY = {
    "class": "BnInception",
    "default_input_px": 224,
    "min_input_px": 32,
    "source": "Ioffe and Szegedy, arXiv 1502.03167, Figure 5",
    "networks": {"bn_inception": {"paper_top1_error_percent": 25.2, "paper_top5_error_percent": 7.8}},
}

MIN_INPUT_PX = 32  # the five strides leave one px of them; below, the last grid would be padding for the most part

DEPTH_MULTIPLIER = 8

# Standard deviations that TF-slim's nets/inception_v2.py gives by hand, at any width: for both halves of the separable convolution, the
# 1x1 that follows it and those after the pools, and the 1x1 before a 3x3. Other layers go by their number of inputs.
FIRST_STDS = (
    (r"stem\.conv_1\..*", 1.0),
    (r"stem\.conv_2\.conv|.*\.branch_pool\.1\.conv", 0.1),
    (r".*branch_(double_)?3x3\.0\.conv", 0.09),
)


class SeparableConvNormAct(nn.Module):
    """Separable convolution 7x7, stride 2, same, then batch norm and ReLU: (N, 3, 224, 224) -> (N, out_channels, 112, 112).

    Each input channel gets 8 filters of its own, then a 1x1 convolution mixes the 24: the text beside Figure 5. There is no norm
    between the two.
    """

    def __init__(self, in_channels: int, out_channels: int, conv: Conv) -> None:
        super().__init__()
        inner = in_channels * DEPTH_MULTIPLIER
        self.depthwise = nn.Conv2d(in_channels, inner, 7, stride=2, groups=in_channels, bias=False)
        self.pointwise = conv(inner, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, ceil(H / 2), ceil(W / 2))."""
        y: Tensor = self.pointwise(self.depthwise(pad_same(x, (7, 7), 2)))
        return y


def inception(
    in_channels: int,
    conv: Conv,
    c: Channels,
    single: int,
    triple: tuple[int, int],
    double: tuple[int, int],
    pool: nn.Module,
    project: int,
) -> Parallel:
    """A block that keeps its grid: (N, C, H, W) -> (N, single + triple[1] + double[1] + project, H, W).

    In the order of Figure 5's columns, channels at width 1: #1x1, (#3x3 reduce, #3x3), (double #3x3 reduce, double #3x3), pool + proj.
    """
    return Parallel(
        out_channels=c(single) + c(triple[1]) + c(double[1]) + c(project),
        branch_1x1=conv(in_channels, c(single), 1),
        branch_3x3=nn.Sequential(
            conv(in_channels, c(triple[0]), 1),
            conv(c(triple[0]), c(triple[1]), 3),
        ),
        branch_double_3x3=nn.Sequential(
            conv(in_channels, c(double[0]), 1),
            conv(c(double[0]), c(double[1]), 3),
            conv(c(double[1]), c(double[1]), 3),
        ),
        branch_pool=nn.Sequential(
            pool,
            conv(in_channels, c(project), 1),
        ),
    )


def reduction(in_channels: int, conv: Conv, c: Channels, triple: tuple[int, int], double: tuple[int, int]) -> Parallel:
    """A block of stride 2, 3c or 4e: (N, C, H, W) -> (N, triple[1] + double[1] + C, ceil(H / 2), ceil(W / 2))."""
    return Parallel(
        out_channels=c(triple[1]) + c(double[1]) + in_channels,
        branch_3x3=nn.Sequential(
            conv(in_channels, c(triple[0]), 1),
            conv(c(triple[0]), c(triple[1]), 3, stride=2),
        ),
        branch_double_3x3=nn.Sequential(
            conv(in_channels, c(double[0]), 1),
            conv(c(double[0]), c(double[1]), 3),
            conv(c(double[1]), c(double[1]), 3, stride=2),
        ),
        branch_pool=MaxPoolSame(),
    )


def init_as_inception_v2(network: nn.Module) -> None:
    """Give the layers of FIRST_STDS their first weights: normal distributions cut at two sigma."""
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d):
            for pattern, std in FIRST_STDS:
                if re.fullmatch(pattern, name):
                    truncated_normal(layer.weight, std)


class BnInception(ImageClassifier):
    """BN-Inception, Figure 5: images (N, 3, H, W), H and W at least 32 px, 224 in the paper -> logits (N, num_classes).

    Initialised as TF-slim does, from torch's global random state, which also feeds the dropout; 11.2 M parameters at width 1 and 1000
    classes. `width` multiplies every number of channels (see `scale_channels`) but the 24 inside the first, separable convolution.
    `dropout` is the share dropped: TF-slim keeps 0.8. `batch_norm_momentum` is torch's: 1 - 0.9997 of TF-slim. Raises ValueError for an
    argument out of its range.
    """

    STAGES = (
        Stage("stem.conv_1", "Fig. 5, convolution*"),
        Stage("stem.pool_1", "Fig. 5"),
        Stage("stem.conv_2", "Fig. 5"),
        Stage("stem.conv_3", "Fig. 5"),
        Stage("stem.pool_2", "Fig. 5"),
        Stage("blocks_a", "Fig. 5, 3a and 3b"),
        Stage("reduction_a", "Fig. 5, 3c"),
        Stage("blocks_b", "Fig. 5, 4a to 4d"),
        Stage("reduction_b", "Fig. 5, 4e"),
        Stage("blocks_c", "Fig. 5, 5a and 5b"),
        Stage("pool", "Fig. 5"),
        Stage("classifier", "Fig. 5"),
    )

    def __init__(
        self,
        num_classes: int = 1000,
        width: float = 1.0,
        dropout: float = 0.2,
        batch_norm_momentum: float = BATCH_NORM_MOMENTUM,
        batch_norm_eps: float = BATCH_NORM_EPS,
    ) -> None:
        super().__init__()
        conv = partial(ConvNormAct, batch_norm_momentum=batch_norm_momentum, batch_norm_eps=batch_norm_eps)
        c = partial(scale_channels, width=width)
        average = average_pool_3x3

        # 224 x 224 x 3
        self.stem = nn.Sequential(
            OrderedDict(
                conv_1=SeparableConvNormAct(3, c(64), conv),
                # 112 x 112 x 64
                pool_1=MaxPoolSame(),
                # 56 x 56 x 64
                conv_2=conv(c(64), c(64), 1),
                # 56 x 56 x 64
                conv_3=conv(c(64), c(192), 3),
                # 56 x 56 x 192
                pool_2=MaxPoolSame(),
            )
        )
        # 28 x 28 x 192
        block_3a = inception(c(192), conv, c, 64, (64, 64), (64, 96), average(), 32)
        # 28 x 28 x 256
        block_3b = inception(block_3a.out_channels, conv, c, 64, (64, 96), (64, 96), average(), 64)
        self.blocks_a = nn.Sequential(block_3a, block_3b)
        # 28 x 28 x 320
        self.reduction_a = reduction(block_3b.out_channels, conv, c, (128, 160), (64, 96))
        # 14 x 14 x 576
        block_4a = inception(self.reduction_a.out_channels, conv, c, 224, (64, 96), (96, 128), average(), 128)
        # 14 x 14 x 576
        block_4b = inception(block_4a.out_channels, conv, c, 192, (96, 128), (96, 128), average(), 128)
        # 14 x 14 x 576
        block_4c = inception(block_4b.out_channels, conv, c, 160, (128, 160), (128, 160), average(), 96)
        # 14 x 14 x 576
        block_4d = inception(block_4c.out_channels, conv, c, 96, (128, 192), (160, 192), average(), 96)
        self.blocks_b = nn.Sequential(block_4a, block_4b, block_4c, block_4d)
        # 14 x 14 x 576
        self.reduction_b = reduction(block_4d.out_channels, conv, c, (128, 192), (192, 256))
        # 7 x 7 x 1024
        block_5a = inception(self.reduction_b.out_channels, conv, c, 352, (192, 320), (160, 224), average(), 128)
        # 7 x 7 x 1024
        max_pool = nn.MaxPool2d(3, stride=1, padding=1)
        block_5b = inception(block_5a.out_channels, conv, c, 352, (192, 320), (192, 224), max_pool, 128)
        self.blocks_c = nn.Sequential(block_5a, block_5b)
        # 7 x 7 x 1024
        self.add_classifier(block_5b.out_channels, num_classes, dropout)
        init_weights(self, classifier="convolution")
        init_as_inception_v2(self)

    def forward_middle(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) -> the middle grid, (N, 576 x width, 14, 14) at 224 px. Raises ValueError below 32 px."""
        check_input_px(min(x.shape[-2:]), MIN_INPUT_PX, "BN-Inception")
        x = self.stem(x)  # 28 x 28 x 192
        x = self.blocks_a(x)  # 28 x 28 x 320
        x = self.reduction_a(x)  # 14 x 14 x 576
        x = self.blocks_b(x)  # 14 x 14 x 576
        return x

    def forward_last(self, x: Tensor) -> Tensor:
        """From there to the last grid, (N, 1024 x width, 7, 7) at 224 px."""
        x = self.reduction_b(x)  # 7 x 7 x 1024
        x = self.blocks_c(x)  # 7 x 7 x 1024
        return x
