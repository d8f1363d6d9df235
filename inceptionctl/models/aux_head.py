"""The auxiliary head of Inception-v3, Inception-v4 and Inception-ResNet-v2: a second classifier on the 17 x 17 grid, for training.

Sources: Szegedy et al., "Rethinking the Inception Architecture" (arXiv 1512.00567), Figure 8; the numbers of channels and the
first weights are TF-slim's, the authors' own code. arXiv 1602.07261 says nothing of such heads; TF-slim has them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from inceptionctl.models.layers import Channels, Conv, truncated_normal

POOL_PX = 5
MIN_INPUT_PX = 107  # leave a grid of 5 x 5, which the pool needs


def grid_px(input_px: int) -> int:
    """Side of the grid that the head is fed, for images of `input_px` px: 17 at 299 px.

    Inception-v3, Inception-v4 and Inception-ResNet-v2 have the same strides down to there, though not the same layers.
    """
    side = (input_px - 1) // 2 - 2  # 3x3 /2 valid, 3x3 valid: 147
    side = (side - 1) // 2 - 2  # 3x3 /2 valid, 3x3 valid: 71
    side = (side - 1) // 2  # 3x3 /2 valid: 35
    return (side - 1) // 2  # Reduction-A: 17


class AuxHead(nn.Module):
    """Average pool 5x5 /3, 1x1 convolution, one convolution over the whole grid that is left, linear.

    (N, in_channels, 17, 17) -> logits (N, num_classes). The kernel over the grid is 5x5 at 299 px and follows `input_px`: the
    head takes no grid but that of the image side it was built for. Raises ValueError below 107 px, and for another grid.
    """

    def __init__(self, in_channels: int, num_classes: int, input_px: int, conv: Conv, c: Channels) -> None:
        super().__init__()
        if input_px < MIN_INPUT_PX:
            raise ValueError(
                f"the auxiliary head needs images of at least {MIN_INPUT_PX} x {MIN_INPUT_PX} px, got a side of {input_px} px: "
                "build the network with aux_head=False"
            )
        self.input_px = input_px
        self.kernel_px = (grid_px(input_px) - POOL_PX) // 3 + 1
        # 17 x 17 x in_channels
        self.pool = nn.AvgPool2d(POOL_PX, stride=3)
        # 5 x 5 x in_channels
        self.conv_1x1 = conv(in_channels, c(128), 1)
        # 5 x 5 x 128
        self.conv_grid = conv(c(128), c(768), self.kernel_px, padding="valid")
        # 1 x 1 x 768
        self.classifier = nn.Linear(c(768), num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, 17, 17) -> logits (N, num_classes)."""
        x = self.pool(x)  # 5 x 5 x in_channels
        height, width = x.shape[-2:]
        if (height, width) != (self.kernel_px, self.kernel_px):
            raise ValueError(
                f"the auxiliary head was built for images of {self.input_px} x {self.input_px} px, which leave it a grid of "
                f"{self.kernel_px} x {self.kernel_px}; it got one of {height} x {width}: build the network with the input_px "
                "that it is trained on"
            )
        x = self.conv_1x1(x)  # 5 x 5 x 128
        x = torch.flatten(self.conv_grid(x), 1)  # 768
        x = self.classifier(x)  # 1000
        return x


def init_as_inception_v3(head: AuxHead) -> None:
    """Give the last two layers the small first weights that TF-slim gives them in Inception-v3 alone: std 0.01 and 0.001."""
    for layer, std in ((head.conv_grid.conv, 0.01), (head.classifier, 0.001)):
        truncated_normal(layer.weight, std)
