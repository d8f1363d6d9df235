"""The parts that every network of the Inception family is made of. Imports torch alone.

Sources: Szegedy et al., "Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning" (arXiv 1602.07261);
Ioffe and Szegedy, "Batch Normalization" (arXiv 1502.03167); TF-slim, the authors' own code, for what the papers do not print.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

# torch's convention: the share of the new batch in the running statistics. TF-slim keeps 0.9997 of the old.
BATCH_NORM_MOMENTUM = 3e-4
BATCH_NORM_EPS = 1e-3

Conv = Callable[..., "ConvNormAct"]  # ConvNormAct with the batch norm's settings filled in
Padding = Literal["same", "valid", "symmetric"]
Channels = Callable[[int], int]  # the paper's number of channels -> this network's, at its width


def check_input_px(input_px: int, smallest_px: int, network: str) -> None:
    """Raise ValueError if an image side of `input_px` px is below `smallest_px`, which the strides of `network` need."""
    if input_px < smallest_px:
        raise ValueError(f"{network} needs images of at least {smallest_px} x {smallest_px} px, got a side of {input_px} px")


def scale_channels(channels: int, width: float) -> int:
    """`channels` x `width`, rounded to the nearest multiple of 8 (halves go up), at least 8.

    At width 1.0 the number is returned as it is, so that a network of the paper stays exactly that.
    Multiples of 8 are what tensor cores and vector units work in. Raises ValueError for a width not positive and finite.
    """
    if not (math.isfinite(width) and width > 0):
        raise ValueError(f"width must be a positive number, got {width}")
    if width == 1.0:
        return channels
    return max(8, 8 * math.floor(channels * width / 8 + 0.5))


def same_padding(side_px: int, kernel: int, stride: int) -> tuple[int, int]:
    """Pixels that TensorFlow's "SAME" adds before and after a side of `side_px`, so that ceil(side_px / stride) are left.

    With stride 2 it depends on the side: one more after than before, or the same, or none.
    """
    total = max((math.ceil(side_px / stride) - 1) * stride + kernel - side_px, 0)
    return total // 2, total - total // 2


def pad_same(x: Tensor, kernel: tuple[int, int], stride: int, value: float = 0.0) -> Tensor:
    """(N, C, H, W) with the border of `value` that TensorFlow's "SAME" adds for a kernel (height, width) and stride."""
    height, width = (same_padding(side, size, stride) for side, size in zip(x.shape[-2:], kernel, strict=True))
    return nn.functional.pad(x, (*width, *height), value=value)


class ConvNormAct(nn.Module):
    """Convolution without bias, batch norm, ReLU: what the paper's figures call 'Conv' (arXiv 1602.07261, Figures 3 to 8).

    (N, in_channels, H, W) -> (N, out_channels, H', W'). `kernel` is a side or (height, width) in px.
    padding "same" keeps H and W, divided by the stride and rounded up, and pads as TensorFlow does, unevenly with stride 2;
    "symmetric" adds kernel // 2 px on every side, as ResNets do; "valid" adds nothing ('V' in the figures).
    `activation` False leaves the ReLU out.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: Padding = "same",
        activation: bool = True,
        batch_norm_momentum: float = BATCH_NORM_MOMENTUM,
        batch_norm_eps: float = BATCH_NORM_EPS,
    ) -> None:
        super().__init__()
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        if padding != "valid" and (height % 2 == 0 or width % 2 == 0):
            # Such a kernel has no middle; no network here has one, so it is refused rather than guessed.
            raise ValueError(f"{padding} padding needs odd kernel sides, got {height} x {width}")
        # With stride 1 both are the same, and the convolution pads by itself.
        self.pads_unevenly = padding == "same" and stride != 1
        pad = (0, 0) if padding == "valid" or self.pads_unevenly else (height // 2, width // 2)
        self.conv = nn.Conv2d(in_channels, out_channels, (height, width), stride=stride, padding=pad, bias=False)
        self.norm = nn.BatchNorm2d(out_channels, eps=batch_norm_eps, momentum=batch_norm_momentum)
        # In place: batch norm's backward reads its input, never its output, so the memory of one activation is saved.
        self.act = nn.ReLU(inplace=True) if activation else nn.Identity()
        self.kernel, self.stride = (height, width), stride

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H', W')."""
        if self.pads_unevenly:
            x = pad_same(x, self.kernel, self.stride)
        y: Tensor = self.act(self.norm(self.conv(x)))
        return y


class Parallel(nn.Module):
    """Named branches side by side: each gets the same input, their outputs are concatenated over channels in the order given.

    `out_channels` is the sum over the branches, for whoever builds the next layer. The order of the concatenation has no
    meaning to the network; the blocks here keep TF-slim's, so that weights can be carried over name by name.
    """

    def __init__(self, *, out_channels: int, **branches: nn.Module) -> None:
        super().__init__()
        self.out_channels = out_channels
        for name, branch in branches.items():
            self.add_module(name, branch)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, out_channels, H', W')."""
        return torch.cat([branch(x) for branch in self.children()], dim=1)


def average_pool_3x3(*, counts_padding: bool = False) -> nn.AvgPool2d:
    """Average pool 3x3, stride 1, same: (N, C, H, W) -> (N, C, H, W). A corner is the mean of 4 px.

    Figures 4 to 6 of arXiv 1602.07261 print 'Avg Pooling'; TensorFlow's leaves the padding out of the mean. With
    `counts_padding` the zeros around the image count, so a corner is 4 px divided by 9: torch's default.
    """
    return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=counts_padding)


def max_pool_3x3_reduce() -> nn.MaxPool2d:
    """Max pool 3x3, stride 2, valid: (N, C, H, W) -> (N, C, (H - 1) // 2, (W - 1) // 2)."""
    return nn.MaxPool2d(3, stride=2)


class MaxPoolSame(nn.Module):
    """Max pool 3x3, stride 2, padded as TensorFlow's "SAME": (N, C, H, W) -> (N, C, ceil(H / 2), ceil(W / 2))."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, ceil(H / 2), ceil(W / 2))."""
        y: Tensor = self.pool(pad_same(x, (3, 3), 2, value=-math.inf))
        return y


def truncated_normal(weight: Tensor, std: float) -> None:
    """Fill `weight` in place from a normal of `std` cut at two of these, like TensorFlow's: the cut leaves a std of 0.88 x `std`."""
    nn.init.trunc_normal_(weight, mean=0.0, std=std, a=-2.0 * std, b=2.0 * std)


def init_weights(module: nn.Module, *, classifier: Literal["dense", "convolution"] = "dense") -> None:
    """Initialise every layer of `module` in place as TF-slim does, from torch's global random state.

    Convolutions: normal of std sqrt(1.3 * 2 / fan_in), cut at two of these; fan_in = input channels of a group x kernel area.
    Linear layers: Glorot uniform, or as a convolution, since the `classifier` is a 1x1 convolution in TF-slim's BN-Inception,
    Inception-v3 and ResNets. Batch norm: gamma 1, beta 0, statistics as new. Every bias: 0.
    Source: variance_scaling_initializer under inception_arg_scope and resnet_arg_scope, fully_connected's default, TF-slim.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) or (isinstance(layer, nn.Linear) and classifier == "convolution"):
            fan_in = layer.weight[0].numel()
            # Cutting at two sigma leaves a std of 0.88 sigma: 1.3 = 1 / 0.88^2 brings the variance back to 2 / fan_in.
            truncated_normal(layer.weight, math.sqrt(1.3 * 2.0 / fan_in))
        elif isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
            nn.init.ones_(layer.weight)
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


AUX_POOL_PX = 5
MIN_AUX_INPUT_PX = 107  # leave a grid of 5 x 5, which the pool needs


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
        if input_px < MIN_AUX_INPUT_PX:
            raise ValueError(
                f"the auxiliary head needs images of at least {MIN_AUX_INPUT_PX} x {MIN_AUX_INPUT_PX} px, got a side of {input_px} px: "
                "build the network with aux_head=False"
            )
        self.input_px = input_px
        self.kernel_px = (grid_px(input_px) - AUX_POOL_PX) // 3 + 1
        # 17 x 17 x in_channels
        self.pool = nn.AvgPool2d(AUX_POOL_PX, stride=3)
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


class DropPath(nn.Module):
    """Stochastic depth (Huang et al., arXiv 1603.09382): in training, the residuals of some images are zero; the others make up for them.

    (N, C, H, W) -> (N, C, H, W). `probability` is that of a zero. Draws come from torch's global random state.
    """

    def __init__(self) -> None:
        super().__init__()
        self.probability = 0.0

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        if not self.training or self.probability == 0.0:
            return x
        kept = 1.0 - self.probability
        mask = torch.rand(len(x), 1, 1, 1, device=x.device) < kept
        return x * (mask / kept).to(x.dtype)


def set_drop_path(network: nn.Module, last: float) -> None:
    """Give the residual units probabilities that rise linearly with depth from 0 to `last` (the paper's rule)."""
    units = [module for module in network.modules() if isinstance(module, DropPath)]
    for place, unit in enumerate(units):
        unit.probability = last * place / max(1, len(units) - 1)


class ImageClassifier(nn.Module):
    """What the networks here end in: global average pool, dropout, a linear classifier; and an auxiliary head where there is one.

    A subclass builds its layers, then calls `add_classifier`, and implements `forward_middle` and `forward_last`.
    """

    aux_head: AuxHead | None

    def add_classifier(self, num_features: int, num_classes: int, dropout: float) -> None:
        """Add the layers behind the last grid, of `num_features` channels. Raises ValueError for fewer classes than one."""
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.pool = nn.AdaptiveAvgPool2d(1)
        # 1 x 1 x num_features
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(num_features, num_classes)
        # num_classes
        self.aux_head = None
        self.num_features = num_features
        self.num_classes = num_classes

    def forward_middle(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) -> the grid that an auxiliary head is fed. Raises ValueError for images that are too small."""
        raise NotImplementedError

    def forward_last(self, x: Tensor) -> Tensor:
        """From what `forward_middle` gives to the last grid, (N, num_features, H', W')."""
        raise NotImplementedError

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) -> the last grid, (N, num_features, H', W'). Raises ValueError for images that are too small."""
        return self.forward_last(self.forward_middle(x))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Images (N, 3, H, W) -> logits (N, num_classes); in training with the auxiliary head, (logits, auxiliary logits).

        The softmax belongs to the loss. Raises ValueError for images that are too small.
        """
        middle = self.forward_middle(x)
        x = self.forward_last(middle)
        x = torch.flatten(self.pool(x), 1)  # num_features
        x = self.classifier(self.dropout(x))  # num_classes
        return (x, self.aux_head(middle)) if self.training and self.aux_head is not None else x


def init_as_inception_v3(head: AuxHead) -> None:
    """Give the last two layers the small first weights that TF-slim gives them in Inception-v3 alone: std 0.01 and 0.001."""
    for layer, std in ((head.conv_grid.conv, 0.01), (head.classifier, 0.001)):
        truncated_normal(layer.weight, std)
