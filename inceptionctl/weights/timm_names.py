"""timm's names of our layers, which torchvision shares where it has the network too (Inception-v3 and the ResNets).

Sources: state dicts of timm 1.0.31 and torchvision 0.28. The leaves (weight, bias, running_mean, ...) are torch's in both.
"""

from __future__ import annotations

from inceptionctl.weights.names import Names, chain, expanded, prefixed

# Mixed_5b to Mixed_5e
V4_BLOCK_A = {
    "branch_1x1": "branch0",
    **chain("branch_3x3", "branch1.0", "branch1.1"),
    **chain("branch_double_3x3", "branch2.0", "branch2.1", "branch2.2"),
    "branch_pool.1": "branch3.1",
}
V4_REDUCTION_A = {
    "branch_3x3": "branch0",
    **chain("branch_double_3x3", "branch1.0", "branch1.1", "branch1.2"),
}
V4_BLOCK_B = {
    "branch_1x1": "branch0",
    **chain("branch_7x7", "branch1.0", "branch1.1", "branch1.2"),
    **chain("branch_double_7x7", "branch2.0", "branch2.1", "branch2.2", "branch2.3", "branch2.4"),
    "branch_pool.1": "branch3.1",
}
V4_REDUCTION_B = {
    **chain("branch_3x3", "branch0.0", "branch0.1"),
    **chain("branch_7x7", "branch1.0", "branch1.1", "branch1.2", "branch1.3"),
}
V4_BLOCK_C = {
    "branch_1x1": "branch0",
    "branch_fork.0": "branch1_0",
    "branch_fork.1.conv_1x3": "branch1_1a",
    "branch_fork.1.conv_3x1": "branch1_1b",
    "branch_3x3_fork.0": "branch2_0",
    "branch_3x3_fork.1": "branch2_1",
    "branch_3x3_fork.2": "branch2_2",
    "branch_3x3_fork.3.conv_1x3": "branch2_3a",
    "branch_3x3_fork.3.conv_3x1": "branch2_3b",
    "branch_pool.1": "branch3.1",
}
V4_STEM = {
    "conv_1": "0",
    "conv_2": "1",
    "conv_3": "2",
    "mixed_1.conv": "3.conv",
    **chain("mixed_2.branch_3x3", "4.branch0.0", "4.branch0.1"),
    **chain("mixed_2.branch_7x7", "4.branch1.0", "4.branch1.1", "4.branch1.2", "4.branch1.3"),
    "mixed_3.conv": "5.conv",
}


def conv_norm(ours: str, theirs: str) -> Names:
    """A convolution with its norm: timm's ConvNormAct, torchvision's BasicConv2d."""
    return {f"{ours}.conv": f"{theirs}.conv", f"{ours}.norm": f"{theirs}.bn"}


def inception_v4() -> Names:
    """timm's inception_v4: one sequence `features` from the stem to the last block."""
    blocks = prefixed("stem.", "features.", V4_STEM)
    for i in range(4):
        blocks |= prefixed(f"blocks_a.{i}.", f"features.{6 + i}.", V4_BLOCK_A)
    blocks |= prefixed("reduction_a.", "features.10.", V4_REDUCTION_A)
    for i in range(7):
        blocks |= prefixed(f"blocks_b.{i}.", f"features.{11 + i}.", V4_BLOCK_B)
    blocks |= prefixed("reduction_b.", "features.18.", V4_REDUCTION_B)
    for i in range(3):
        blocks |= prefixed(f"blocks_c.{i}.", f"features.{19 + i}.", V4_BLOCK_C)
    return {**expanded(blocks, conv_norm), "classifier": "last_linear"}


V3_STEM = {
    "conv_1": "Conv2d_1a_3x3",
    "conv_2": "Conv2d_2a_3x3",
    "conv_3": "Conv2d_2b_3x3",
    "conv_4": "Conv2d_3b_1x1",
    "conv_5": "Conv2d_4a_3x3",
}
V3_BLOCK_A = {
    "branch_1x1": "branch1x1",
    **chain("branch_5x5", "branch5x5_1", "branch5x5_2"),
    **chain("branch_double_3x3", "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
    "branch_pool.1": "branch_pool",
}
V3_REDUCTION_A = {
    "branch_3x3": "branch3x3",
    **chain("branch_double_3x3", "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
}
V3_BLOCK_B = {
    "branch_1x1": "branch1x1",
    **chain("branch_7x7", "branch7x7_1", "branch7x7_2", "branch7x7_3"),
    **chain("branch_double_7x7", "branch7x7dbl_1", "branch7x7dbl_2", "branch7x7dbl_3", "branch7x7dbl_4", "branch7x7dbl_5"),
    "branch_pool.1": "branch_pool",
}
V3_REDUCTION_B = {
    **chain("branch_3x3", "branch3x3_1", "branch3x3_2"),
    **chain("branch_7x7", "branch7x7x3_1", "branch7x7x3_2", "branch7x7x3_3", "branch7x7x3_4"),
}
V3_BLOCK_C = {
    "branch_1x1": "branch1x1",
    "branch_fork.0": "branch3x3_1",
    "branch_fork.1.conv_1x3": "branch3x3_2a",
    "branch_fork.1.conv_3x1": "branch3x3_2b",
    **chain("branch_3x3_fork", "branch3x3dbl_1", "branch3x3dbl_2"),
    "branch_3x3_fork.2.conv_1x3": "branch3x3dbl_3a",
    "branch_3x3_fork.2.conv_3x1": "branch3x3dbl_3b",
    "branch_pool.1": "branch_pool",
}


def inception_v3() -> Names:
    """inception_v3 of torchvision and timm."""
    blocks = prefixed("stem.", "", V3_STEM)
    for i in range(3):
        blocks |= prefixed(f"blocks_a.{i}.", f"Mixed_5{'bcd'[i]}.", V3_BLOCK_A)
    blocks |= prefixed("reduction_a.", "Mixed_6a.", V3_REDUCTION_A)
    for i in range(4):
        blocks |= prefixed(f"blocks_b.{i}.", f"Mixed_6{'bcde'[i]}.", V3_BLOCK_B)
    blocks |= prefixed("reduction_b.", "Mixed_7a.", V3_REDUCTION_B)
    for i in range(2):
        blocks |= prefixed(f"blocks_c.{i}.", f"Mixed_7{'bc'[i]}.", V3_BLOCK_C)
    blocks |= {"aux_head.conv_1x1": "AuxLogits.conv0", "aux_head.conv_grid": "AuxLogits.conv1"}
    return {**expanded(blocks, conv_norm), "classifier": "fc", "aux_head.classifier": "AuxLogits.fc"}


RESNET_V2_STEM = {
    "conv_1": "conv2d_1a",
    "conv_2": "conv2d_2a",
    "conv_3": "conv2d_2b",
    "conv_4": "conv2d_3b",
    "conv_5": "conv2d_4a",
    "mixed.branch_1x1": "mixed_5b.branch0",
    **chain("mixed.branch_5x5", "mixed_5b.branch1.0", "mixed_5b.branch1.1"),
    **chain("mixed.branch_double_3x3", "mixed_5b.branch2.0", "mixed_5b.branch2.1", "mixed_5b.branch2.2"),
    "mixed.branch_pool.1": "mixed_5b.branch3.1",
}
RESNET_V2_BLOCK_A = {
    "branch_1x1": "branch0",
    **chain("branch_3x3", "branch1.0", "branch1.1"),
    **chain("branch_double_3x3", "branch2.0", "branch2.1", "branch2.2"),
}
RESNET_V2_BLOCK_B = {"branch_1x1": "branch0", **chain("branch_7x7", "branch1.0", "branch1.1", "branch1.2")}
RESNET_V2_REDUCTION_B = {
    **chain("branch_3x3", "branch0.0", "branch0.1"),
    **chain("branch_3x3_narrow", "branch1.0", "branch1.1"),
    **chain("branch_double_3x3", "branch2.0", "branch2.1", "branch2.2"),
}
RESNET_V2_BLOCK_C = {"branch_1x1": "branch0", **chain("branch_3x3", "branch1.0", "branch1.1", "branch1.2")}


def inception_resnet_v2() -> Names:
    """timm's inception_resnet_v2. The last block stands apart, since it has no activation."""
    repeats = {f"blocks_a.{i}": f"repeat.{i}" for i in range(10)}
    repeats |= {f"blocks_b.{i}": f"repeat_1.{i}" for i in range(20)}
    repeats |= {f"blocks_c.{i}": f"repeat_2.{i}" for i in range(9)}
    repeats["blocks_c.9"] = "block8"
    kinds = {"blocks_a": RESNET_V2_BLOCK_A, "blocks_b": RESNET_V2_BLOCK_B, "blocks_c": RESNET_V2_BLOCK_C}
    blocks = prefixed("stem.", "", RESNET_V2_STEM)
    for ours, theirs in repeats.items():
        blocks |= prefixed(f"{ours}.branches.", f"{theirs}.", kinds[ours.partition(".")[0]])
    blocks |= prefixed("reduction_a.", "mixed_6a.", V4_REDUCTION_A)
    blocks |= prefixed("reduction_b.", "mixed_7a.", RESNET_V2_REDUCTION_B)
    blocks["conv_head"] = "conv2d_7b"
    projects = {f"{ours}.project": f"{theirs}.conv2d" for ours, theirs in repeats.items()}
    return {**expanded(blocks, conv_norm), **projects, "classifier": "classif"}


def resnet(units: tuple[int, int, int, int], convolutions: int) -> Names:
    """The ResNets of torchvision and timm: `units` in each stage, of 2 (original) or 3 (bottleneck) `convolutions`."""
    names = {"stem.conv.conv": "conv1", "stem.conv.norm": "bn1"}
    for stage, number in enumerate(units, start=1):
        for i in range(number):
            ours, theirs = f"stage_{stage}.{i}", f"layer{stage}.{i}"
            for j in range(1, convolutions + 1):
                names[f"{ours}.residual.conv_{j}.conv"] = f"{theirs}.conv{j}"
                names[f"{ours}.residual.conv_{j}.norm"] = f"{theirs}.bn{j}"
            # Only where the shape changes: the first bottleneck unit of a stage, the first original one from the second stage on.
            if i == 0 and (stage > 1 or convolutions == 3):
                names[f"{ours}.shortcut.conv"] = f"{theirs}.downsample.0"
                names[f"{ours}.shortcut.norm"] = f"{theirs}.downsample.1"
    return {**names, "classifier": "fc"}
