"""A paper's network written as text, and two things made of it: costs worked out from the text alone, and the network's own text.

A branch is a string, its layers separated by commas: height x width, channels, then "/2" for stride 2, "V" for valid padding,
"linear" for no ReLU, "bias" for neither norm nor ReLU but a bias; "{...}" forks; "max" is a 3x3 max pool /2, "max /1" one of
stride 1, "avg" a 3x3 average pool of stride 1, "identity" nothing.
"""

import math
import re
from dataclasses import dataclass

from torch import nn

from inceptionctl.models.inception_resnet import ResidualBlock
from inceptionctl.models.layers import ConvNormAct, MaxPoolSame, Parallel
from inceptionctl.models.resnet import Unit
from inceptionctl.models.summary import count_parameters, endpoints, multiply_adds

CONV = re.compile(r"(\d)x(\d) (\d+)( /2)?( V)?( linear)?( bias)?")


@dataclass(frozen=True)
class Row:
    """Equal blocks that follow each other: what comes in to the first, and the branches of each.

    `project` is what follows the concatenated branches.
    """

    repeats: int
    grid_px: int
    channels: int
    branches: list[str]
    project: str = ""


Table = dict[str, list[Row]]


def cost_of_branch(branch: str, grid_px: int, channels: int) -> tuple[int, int, int]:
    """Parameters, multiply-adds and channels out of a branch, worked out from its text alone."""
    parameters = multiplications = 0
    head, _, forked = branch.partition("{")
    for height, width, out, stride, valid, _, bias in CONV.findall(head):
        weights = channels * int(height) * int(width) * int(out)
        if valid:
            grid_px = (grid_px - int(height)) // (2 if stride else 1) + 1
        elif stride:
            grid_px = math.ceil(grid_px / 2)
        parameters += weights + (1 if bias else 2) * int(out)  # batch norm has gamma and beta
        multiplications += weights * grid_px**2
        channels = int(out)
    for conv in filter(None, forked.rstrip("}").split(", ")):
        more = cost_of_branch(conv, grid_px, channels)
        parameters, multiplications = parameters + more[0], multiplications + more[1]
    return parameters, multiplications, channels


def cost_of_row(row: Row) -> tuple[int, int]:
    costs = [cost_of_branch(branch, row.grid_px, row.channels) for branch in row.branches]
    if row.project:
        costs.append(cost_of_branch(row.project, row.grid_px, sum(cost[2] for cost in costs)))
    return row.repeats * sum(cost[0] for cost in costs), row.repeats * sum(cost[1] for cost in costs)


def text_of(layer: nn.Module) -> list[str]:
    """A part of a network in the words of a table."""
    if isinstance(layer, ConvNormAct):
        return [text_of_conv(layer.conv, layer) + ("" if isinstance(layer.act, nn.ReLU) else " linear")]
    if isinstance(layer, nn.Conv2d):
        assert layer.bias is not None
        return [f"{text_of_conv(layer)} bias"]
    if isinstance(layer, Parallel):
        return ["{" + ", ".join(word for branch in layer.children() for word in text_of(branch)) + "}"]
    if isinstance(layer, nn.MaxPool2d):
        assert (layer.kernel_size, layer.padding) in ((3, 0 if layer.stride == 2 else 1), (3, 1))
        return ["max" if layer.stride == 2 else "max /1"]
    if isinstance(layer, MaxPoolSame):
        return text_of(layer.pool)
    if isinstance(layer, nn.AvgPool2d):
        assert (layer.kernel_size, layer.stride, layer.padding) == (3, 1, 1)
        return ["avg"]
    if isinstance(layer, nn.Identity):
        return ["identity"]
    assert isinstance(layer, nn.Sequential), layer
    return [word for child in layer for word in text_of(child)]


def text_of_conv(conv: nn.Conv2d, block: ConvNormAct | None = None) -> str:
    assert conv.groups == 1 and conv.dilation == (1, 1)
    height, width = conv.kernel_size
    uneven = block is not None and block.pads_unevenly
    valid = conv.padding == (0, 0) and conv.kernel_size != (1, 1) and not uneven
    assert valid or uneven or conv.padding == (height // 2, width // 2)
    assert conv.stride in ((1, 1), (2, 2))
    return f"{height}x{width} {conv.out_channels}{' /2' if conv.stride == (2, 2) else ''}{' V' if valid else ''}"


def branches_of(block: nn.Module) -> tuple[list[nn.Module], nn.Module | None]:
    """Branches of a block, and what follows their concatenation."""
    if isinstance(block, ResidualBlock):
        return list(block.branches.children()), block.project
    if isinstance(block, Unit):
        return [block.residual, block.shortcut], None
    return (list(block.children()), None) if isinstance(block, Parallel) else ([block], None)


def check_every_branch(model: nn.Module, table: Table) -> None:
    """Compare the whole network with its table, branch by branch; the order of the branches has no meaning."""
    for name, rows in table.items():
        stage = model.get_submodule(name)
        blocks = list(stage) if isinstance(stage, nn.Sequential) else [stage]
        expected = [row for row in rows for _ in range(row.repeats)]
        assert len(blocks) == len(expected), name
        for number, (block, row) in enumerate(zip(blocks, expected, strict=True)):
            branches, project = branches_of(block)
            assert sorted(", ".join(text_of(branch)) for branch in branches) == sorted(row.branches), (name, number)
            assert (text_of(project) if project else []) == ([row.project] if row.project else []), (name, number)


def check_costs(model: nn.Module, table: Table, input_px: int, other: dict[str, tuple[int, int]]) -> None:
    """Compare parameters and multiply-adds of every stage with those of the table, `other` being those that it cannot write."""
    expected = {
        name: tuple(sum(costs) for costs in zip(*map(cost_of_row, rows), strict=True)) for name, rows in table.items()
    } | other
    found = {e.name: (e.parameters, e.multiply_adds) for e in endpoints(model, input_px)}
    assert found == expected
    assert multiply_adds(model, input_px) == sum(cost[1] for cost in expected.values())
    aux_head = getattr(model, "aux_head", None)
    without = count_parameters(model) - (count_parameters(aux_head) if aux_head is not None else 0)
    assert without == sum(cost[0] for cost in expected.values())
