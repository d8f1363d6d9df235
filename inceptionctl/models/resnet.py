"""ResNets: He, Zhang, Ren, Sun, "Deep Residual Learning", arXiv 1512.03385, Table 1; the baseline of arXiv 1602.07261.

Sizes in comments are H x W x C at 224 px and width 1, C in the order original | bottleneck unit. Padding is kernel // 2 on every
side, whatever the stride.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Literal

from torch import Tensor, nn

from inceptionctl.models import ResidualUnit
from inceptionctl.models.layers import (
    BATCH_NORM_EPS,
    BATCH_NORM_MOMENTUM,
    Conv,
    ConvNormAct,
    DropPath,
    ImageClassifier,
    check_input_px,
    init_weights,
    scale_channels,
)
from inceptionctl.models.summary import Stage

# What this family is called and has; models/__init__.py reads it without importing torch, so it holds literals alone.
FAMILY = {
    "class": "ResNet",
    "default_input_px": 224,
    "min_input_px": 32,
    "source": "He et al., arXiv 1512.03385, Table 1",
    "residual_unit": "bottleneck",
    # The paper measures ResNet-152 with ten crops and densely, never with one crop: docs/networks.md.
    "networks": {
        "resnet_18": {"arguments": {"depth": 18}, "residual_unit": "original"},
        "resnet_34": {"arguments": {"depth": 34}, "residual_unit": "original"},
        "resnet_50": {"arguments": {"depth": 50}},
        "resnet_101": {"arguments": {"depth": 101}},
        "resnet_152": {"arguments": {"depth": 152}},
        # As torchvision, timm and NVIDIA have them: the unit that halves the grid does so in its 3x3, not in its first 1x1.
        "resnet_50_v1_5": {
            "arguments": {"depth": 50, "stride_in": "3x3"},
            "source": "He et al., arXiv 1512.03385, Table 1, with the stride in the 3x3",
        },
        "resnet_101_v1_5": {
            "arguments": {"depth": 101, "stride_in": "3x3"},
            "source": "He et al., arXiv 1512.03385, Table 1, with the stride in the 3x3",
        },
        "resnet_152_v1_5": {
            "arguments": {"depth": 152, "stride_in": "3x3"},
            "source": "He et al., arXiv 1512.03385, Table 1, with the stride in the 3x3",
        },
    },
}

MIN_INPUT_PX = 32  # the five strides leave one px of them; below, the last grid would be padding for the most part

Depth = Literal[18, 34, 50, 101, 152]
# Where a bottleneck unit that halves the grid does so: the paper's networks in the first 1x1, "v1.5" in the 3x3.
StrideIn = Literal["1x1", "3x3"]

# Units of each stage.
REPEATS: dict[Depth, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
EXPANSION = 4  # channels that leave a bottleneck unit, as a multiple of those inside it


class Unit(nn.Module):
    """residual(x) + shortcut(x), then ReLU: (N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride).

    The shortcut is the identity, or a 1x1 convolution with batch norm where the shape changes (option B of the paper). The last
    convolution of the residual has batch norm but no ReLU.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, residual: nn.Sequential, conv: Conv) -> None:
        super().__init__()
        self.residual = residual
        keeps = in_channels == out_channels and stride == 1
        self.shortcut = nn.Identity() if keeps else conv(in_channels, out_channels, 1, stride=stride, activation=False)
        self.drop_path = DropPath()
        self.act = nn.ReLU(inplace=True)
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride)."""
        y: Tensor = self.act(self.drop_path(self.residual(x)) + self.shortcut(x))
        return y


def original_unit(in_channels: int, channels: int, stride: int, conv: Conv) -> Unit:
    """3x3, 3x3: Figure 5, left, of arXiv 1512.03385 and Figure 1 of 1602.07261. The stride is in the first."""
    residual: OrderedDict[str, nn.Module] = OrderedDict(
        conv_1=conv(in_channels, channels, 3, stride=stride),
        conv_2=conv(channels, channels, 3, activation=False),
    )
    return Unit(in_channels, channels, stride, nn.Sequential(residual), conv)


def bottleneck_unit(in_channels: int, channels: int, stride: int, conv: Conv, stride_in: StrideIn) -> Unit:
    """1x1, 3x3, 1x1 to four times the channels: Figure 5, right, of arXiv 1512.03385 and Figure 2 of 1602.07261."""
    residual: OrderedDict[str, nn.Module] = OrderedDict(
        conv_1=conv(in_channels, channels, 1, stride=stride if stride_in == "1x1" else 1),
        conv_2=conv(channels, channels, 3, stride=stride if stride_in == "3x3" else 1),
        conv_3=conv(channels, EXPANSION * channels, 1, activation=False),
    )
    return Unit(in_channels, EXPANSION * channels, stride, nn.Sequential(residual), conv)


class ResNet(ImageClassifier):
    """A ResNet, Table 1 of arXiv 1512.03385: images (N, 3, H, W), H and W at least 32 px -> logits (N, num_classes).

    Initialised as TF-slim does, from torch's global random state, which also feeds the dropout. The paper has no dropout: 0.0 gives its
    network. `residual_unit` is the original one of two 3x3 convolutions, the paper's below 50 layers, or the 1x1 bottleneck one, from 50
    on; either goes with every depth, whose name then tells the repeats. `stride_in` says where a bottleneck unit that halves the grid
    does so: in its first 1x1 (the paper), or in its 3x3 (what the field calls v1.5; torchvision, timm and NVIDIA have that).
    `width` multiplies every number of channels (see `scale_channels`). `batch_norm_momentum` is torch's: the share of the new batch.
    Raises ValueError for an argument out of its range.
    """

    STAGES = (
        Stage("stem.conv", "Table 1, conv1"),
        Stage("stem.pool", "Table 1, conv2_x"),
        Stage("stage_1", "Table 1, conv2_x"),
        Stage("stage_2", "Table 1, conv3_x"),
        Stage("stage_3", "Table 1, conv4_x"),
        Stage("stage_4", "Table 1, conv5_x"),
        Stage("pool", "Table 1"),
        Stage("classifier", "Table 1"),
    )

    def __init__(
        self,
        depth: Depth,
        num_classes: int = 1000,
        width: float = 1.0,
        dropout: float = 0.2,
        batch_norm_momentum: float = BATCH_NORM_MOMENTUM,
        batch_norm_eps: float = BATCH_NORM_EPS,
        residual_unit: ResidualUnit | None = None,
        stride_in: StrideIn = "1x1",
    ) -> None:
        super().__init__()
        conv: Conv = partial(
            ConvNormAct, padding="symmetric", batch_norm_momentum=batch_norm_momentum, batch_norm_eps=batch_norm_eps
        )
        bottleneck = (residual_unit or ("original" if depth < 50 else "bottleneck")) == "bottleneck"
        self.depth = depth

        def stage(in_channels: int, channels: int, units: int, stride: int) -> nn.Sequential:
            own = nn.Sequential()
            for number in range(units):
                at = stride if number == 0 else 1
                unit = (
                    bottleneck_unit(in_channels, channels, at, conv, stride_in)
                    if bottleneck
                    else original_unit(in_channels, channels, at, conv)
                )
                own.append(unit)
                in_channels = unit.out_channels
            return own

        factor = EXPANSION if bottleneck else 1
        base = [scale_channels(channels, width) for channels in (64, 128, 256, 512)]
        first, second, third, fourth = REPEATS[depth]

        # 224 x 224 x 3
        self.stem = nn.Sequential(
            OrderedDict(
                conv=conv(3, base[0], 7, stride=2),
                # 112 x 112 x 64
                pool=nn.MaxPool2d(3, stride=2, padding=1),
            )
        )
        # 56 x 56 x 64
        self.stage_1 = stage(base[0], base[0], first, stride=1)
        # 56 x 56 x 64 | 256
        self.stage_2 = stage(factor * base[0], base[1], second, stride=2)
        # 28 x 28 x 128 | 512
        self.stage_3 = stage(factor * base[1], base[2], third, stride=2)
        # 14 x 14 x 256 | 1024
        self.stage_4 = stage(factor * base[2], base[3], fourth, stride=2)
        # 7 x 7 x 512 | 2048
        self.add_classifier(factor * base[3], num_classes, dropout)
        init_weights(self, classifier="convolution")

    def forward_middle(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) -> the grid before the last, (N, 256 | 1024, 14, 14) at 224 px. Raises ValueError below 32 px."""
        check_input_px(min(x.shape[-2:]), MIN_INPUT_PX, f"ResNet-{self.depth}")
        x = self.stem(x)  # 56 x 56 x 64
        x = self.stage_1(x)  # 56 x 56 x 64 | 256
        x = self.stage_2(x)  # 28 x 28 x 128 | 512
        x = self.stage_3(x)  # 14 x 14 x 256 | 1024
        return x

    def forward_last(self, x: Tensor) -> Tensor:
        """From there to the last grid, (N, 512 | 2048, 7, 7) at 224 px and width 1."""
        x = self.stage_4(x)  # 7 x 7 x 512 | 2048
        return x
