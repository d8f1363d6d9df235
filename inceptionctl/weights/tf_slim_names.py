"""TF-slim's names of our layers: variable scopes of research/slim/nets in github.com/tensorflow/models.

A convolution's scope holds `weights`; its norm's lies inside, `BatchNorm`, with `beta`, `moving_mean` and `moving_variance`, and
without `gamma`. Layers without norm have `weights` and `biases`.
"""

from __future__ import annotations

from inceptionctl.weights.names import Names, chain, expanded, prefixed

V4_BLOCK_A = {
    "branch_1x1": "Branch_0/Conv2d_0a_1x1",
    **chain("branch_3x3", "Branch_1/Conv2d_0a_1x1", "Branch_1/Conv2d_0b_3x3"),
    **chain("branch_double_3x3", "Branch_2/Conv2d_0a_1x1", "Branch_2/Conv2d_0b_3x3", "Branch_2/Conv2d_0c_3x3"),
    "branch_pool.1": "Branch_3/Conv2d_0b_1x1",
}
V4_REDUCTION_A = {
    "branch_3x3": "Branch_0/Conv2d_1a_3x3",
    **chain("branch_double_3x3", "Branch_1/Conv2d_0a_1x1", "Branch_1/Conv2d_0b_3x3", "Branch_1/Conv2d_1a_3x3"),
}
V4_BLOCK_B = {
    "branch_1x1": "Branch_0/Conv2d_0a_1x1",
    **chain("branch_7x7", "Branch_1/Conv2d_0a_1x1", "Branch_1/Conv2d_0b_1x7", "Branch_1/Conv2d_0c_7x1"),
    **chain(
        "branch_double_7x7",
        "Branch_2/Conv2d_0a_1x1",
        "Branch_2/Conv2d_0b_7x1",
        "Branch_2/Conv2d_0c_1x7",
        "Branch_2/Conv2d_0d_7x1",
        "Branch_2/Conv2d_0e_1x7",
    ),
    "branch_pool.1": "Branch_3/Conv2d_0b_1x1",
}
V4_REDUCTION_B = {
    **chain("branch_3x3", "Branch_0/Conv2d_0a_1x1", "Branch_0/Conv2d_1a_3x3"),
    **chain(
        "branch_7x7",
        "Branch_1/Conv2d_0a_1x1",
        "Branch_1/Conv2d_0b_1x7",
        "Branch_1/Conv2d_0c_7x1",
        "Branch_1/Conv2d_1a_3x3",
    ),
}
V4_BLOCK_C = {
    "branch_1x1": "Branch_0/Conv2d_0a_1x1",
    "branch_fork.0": "Branch_1/Conv2d_0a_1x1",
    "branch_fork.1.conv_1x3": "Branch_1/Conv2d_0b_1x3",
    "branch_fork.1.conv_3x1": "Branch_1/Conv2d_0c_3x1",
    **chain("branch_3x3_fork", "Branch_2/Conv2d_0a_1x1", "Branch_2/Conv2d_0b_3x1", "Branch_2/Conv2d_0c_1x3"),
    "branch_3x3_fork.3.conv_1x3": "Branch_2/Conv2d_0d_1x3",
    "branch_3x3_fork.3.conv_3x1": "Branch_2/Conv2d_0e_3x1",
    "branch_pool.1": "Branch_3/Conv2d_0b_1x1",
}
V4_STEM = {
    "conv_1": "Conv2d_1a_3x3",
    "conv_2": "Conv2d_2a_3x3",
    "conv_3": "Conv2d_2b_3x3",
    "mixed_1.conv": "Mixed_3a/Branch_1/Conv2d_0a_3x3",
    **chain("mixed_2.branch_3x3", "Mixed_4a/Branch_0/Conv2d_0a_1x1", "Mixed_4a/Branch_0/Conv2d_1a_3x3"),
    **chain(
        "mixed_2.branch_7x7",
        "Mixed_4a/Branch_1/Conv2d_0a_1x1",
        "Mixed_4a/Branch_1/Conv2d_0b_1x7",
        "Mixed_4a/Branch_1/Conv2d_0c_7x1",
        "Mixed_4a/Branch_1/Conv2d_1a_3x3",
    ),
    "mixed_3.conv": "Mixed_5a/Branch_0/Conv2d_1a_3x3",
}


def conv_norm(ours: str, theirs: str) -> Names:
    """A convolution with its norm: slim.conv2d with a normalizer."""
    return {f"{ours}.conv": theirs, f"{ours}.norm": f"{theirs}/BatchNorm"}


def inception_v4() -> Names:
    """nets/inception_v4.py."""
    blocks = prefixed("stem.", "", V4_STEM)
    for i in range(4):
        blocks |= prefixed(f"blocks_a.{i}.", f"Mixed_5{'bcde'[i]}/", V4_BLOCK_A)
    blocks |= prefixed("reduction_a.", "Mixed_6a/", V4_REDUCTION_A)
    for i in range(7):
        blocks |= prefixed(f"blocks_b.{i}.", f"Mixed_6{'bcdefgh'[i]}/", V4_BLOCK_B)
    blocks |= prefixed("reduction_b.", "Mixed_7a/", V4_REDUCTION_B)
    for i in range(3):
        blocks |= prefixed(f"blocks_c.{i}.", f"Mixed_7{'bcd'[i]}/", V4_BLOCK_C)
    blocks |= {"aux_head.conv_1x1": "AuxLogits/Conv2d_1b_1x1", "aux_head.conv_grid": "AuxLogits/Conv2d_2a"}
    linear = {"classifier": "Logits/Logits", "aux_head.classifier": "AuxLogits/Aux_logits"}
    return prefixed("", "InceptionV4/", {**expanded(blocks, conv_norm), **linear})


V3_STEM = {
    "conv_1": "Conv2d_1a_3x3",
    "conv_2": "Conv2d_2a_3x3",
    "conv_3": "Conv2d_2b_3x3",
    "conv_4": "Conv2d_3b_1x1",
    "conv_5": "Conv2d_4a_3x3",
}
# The scopes of Inception-v3 were named by hand, block by block, and some are odd: the exceptions stand below.
V3_BLOCK_A = {
    "branch_1x1": "Branch_0/Conv2d_0a_1x1",
    **chain("branch_5x5", "Branch_1/Conv2d_0a_1x1", "Branch_1/Conv2d_0b_5x5"),
    **chain("branch_double_3x3", "Branch_2/Conv2d_0a_1x1", "Branch_2/Conv2d_0b_3x3", "Branch_2/Conv2d_0c_3x3"),
    "branch_pool.1": "Branch_3/Conv2d_0b_1x1",
}
V3_MIXED_5C = {**V3_BLOCK_A, **chain("branch_5x5", "Branch_1/Conv2d_0b_1x1", "Branch_1/Conv_1_0c_5x5")}
V3_REDUCTION_A = {
    # 3x3 kernels both, whatever their scopes say.
    "branch_3x3": "Branch_0/Conv2d_1a_1x1",
    **chain("branch_double_3x3", "Branch_1/Conv2d_0a_1x1", "Branch_1/Conv2d_0b_3x3", "Branch_1/Conv2d_1a_1x1"),
}
V3_REDUCTION_B = {
    **chain("branch_3x3", "Branch_0/Conv2d_0a_1x1", "Branch_0/Conv2d_1a_3x3"),
    **chain(
        "branch_7x7",
        "Branch_1/Conv2d_0a_1x1",
        "Branch_1/Conv2d_0b_1x7",
        "Branch_1/Conv2d_0c_7x1",
        "Branch_1/Conv2d_1a_3x3",
    ),
}
V3_MIXED_7B = {
    "branch_1x1": "Branch_0/Conv2d_0a_1x1",
    "branch_fork.0": "Branch_1/Conv2d_0a_1x1",
    "branch_fork.1.conv_1x3": "Branch_1/Conv2d_0b_1x3",
    "branch_fork.1.conv_3x1": "Branch_1/Conv2d_0b_3x1",
    **chain("branch_3x3_fork", "Branch_2/Conv2d_0a_1x1", "Branch_2/Conv2d_0b_3x3"),
    "branch_3x3_fork.2.conv_1x3": "Branch_2/Conv2d_0c_1x3",
    "branch_3x3_fork.2.conv_3x1": "Branch_2/Conv2d_0d_3x1",
    "branch_pool.1": "Branch_3/Conv2d_0b_1x1",
}
V3_MIXED_7C = {**V3_MIXED_7B, "branch_fork.1.conv_3x1": "Branch_1/Conv2d_0c_3x1"}


def inception_v3() -> Names:
    """nets/inception_v3.py. Its two classifiers are convolutions of 1x1."""
    blocks = prefixed("stem.", "", V3_STEM)
    for i, block in enumerate((V3_BLOCK_A, V3_MIXED_5C, V3_BLOCK_A)):
        blocks |= prefixed(f"blocks_a.{i}.", f"Mixed_5{'bcd'[i]}/", block)
    blocks |= prefixed("reduction_a.", "Mixed_6a/", V3_REDUCTION_A)
    for i in range(4):
        blocks |= prefixed(f"blocks_b.{i}.", f"Mixed_6{'bcde'[i]}/", V4_BLOCK_B)
    blocks |= prefixed("reduction_b.", "Mixed_7a/", V3_REDUCTION_B)
    for i, block in enumerate((V3_MIXED_7B, V3_MIXED_7C)):
        blocks |= prefixed(f"blocks_c.{i}.", f"Mixed_7{'bc'[i]}/", block)
    blocks |= {"aux_head.conv_1x1": "AuxLogits/Conv2d_1b_1x1", "aux_head.conv_grid": "AuxLogits/Conv2d_2a_5x5"}
    linear = {"classifier": "Logits/Conv2d_1c_1x1", "aux_head.classifier": "AuxLogits/Conv2d_2b_1x1"}
    return prefixed("", "InceptionV3/", {**expanded(blocks, conv_norm), **linear})


RESNET_V2_STEM = {
    **V3_STEM,
    "mixed.branch_1x1": "Mixed_5b/Branch_0/Conv2d_1x1",
    **chain("mixed.branch_5x5", "Mixed_5b/Branch_1/Conv2d_0a_1x1", "Mixed_5b/Branch_1/Conv2d_0b_5x5"),
    **chain(
        "mixed.branch_double_3x3",
        "Mixed_5b/Branch_2/Conv2d_0a_1x1",
        "Mixed_5b/Branch_2/Conv2d_0b_3x3",
        "Mixed_5b/Branch_2/Conv2d_0c_3x3",
    ),
    "mixed.branch_pool.1": "Mixed_5b/Branch_3/Conv2d_0b_1x1",
}
RESNET_V2_BLOCK_A = {
    "branch_1x1": "Branch_0/Conv2d_1x1",
    **chain("branch_3x3", "Branch_1/Conv2d_0a_1x1", "Branch_1/Conv2d_0b_3x3"),
    **chain("branch_double_3x3", "Branch_2/Conv2d_0a_1x1", "Branch_2/Conv2d_0b_3x3", "Branch_2/Conv2d_0c_3x3"),
}
RESNET_V2_BLOCK_B = {
    "branch_1x1": "Branch_0/Conv2d_1x1",
    **chain("branch_7x7", "Branch_1/Conv2d_0a_1x1", "Branch_1/Conv2d_0b_1x7", "Branch_1/Conv2d_0c_7x1"),
}
RESNET_V2_REDUCTION_B = {
    **chain("branch_3x3", "Branch_0/Conv2d_0a_1x1", "Branch_0/Conv2d_1a_3x3"),
    **chain("branch_3x3_narrow", "Branch_1/Conv2d_0a_1x1", "Branch_1/Conv2d_1a_3x3"),
    **chain("branch_double_3x3", "Branch_2/Conv2d_0a_1x1", "Branch_2/Conv2d_0b_3x3", "Branch_2/Conv2d_1a_3x3"),
}
RESNET_V2_BLOCK_C = {
    "branch_1x1": "Branch_0/Conv2d_1x1",
    **chain("branch_3x3", "Branch_1/Conv2d_0a_1x1", "Branch_1/Conv2d_0b_1x3", "Branch_1/Conv2d_0c_3x1"),
}


def inception_resnet_v2() -> Names:
    """nets/inception_resnet_v2.py. slim.repeat counts from one; the last block stands apart."""
    repeats = {f"blocks_a.{i}": f"Repeat/block35_{i + 1}" for i in range(10)}
    repeats |= {f"blocks_b.{i}": f"Repeat_1/block17_{i + 1}" for i in range(20)}
    repeats |= {f"blocks_c.{i}": f"Repeat_2/block8_{i + 1}" for i in range(9)}
    repeats["blocks_c.9"] = "Block8"
    kinds = {"blocks_a": RESNET_V2_BLOCK_A, "blocks_b": RESNET_V2_BLOCK_B, "blocks_c": RESNET_V2_BLOCK_C}
    blocks = prefixed("stem.", "", RESNET_V2_STEM)
    for ours, theirs in repeats.items():
        blocks |= prefixed(f"{ours}.branches.", f"{theirs}/", kinds[ours.partition(".")[0]])
    blocks |= prefixed("reduction_a.", "Mixed_6a/", V4_REDUCTION_A)
    blocks |= prefixed("reduction_b.", "Mixed_7a/", RESNET_V2_REDUCTION_B)
    blocks["conv_head"] = "Conv2d_7b_1x1"
    blocks |= {"aux_head.conv_1x1": "AuxLogits/Conv2d_1b_1x1", "aux_head.conv_grid": "AuxLogits/Conv2d_2a_5x5"}
    plain = {f"{ours}.project": f"{theirs}/Conv2d_1x1" for ours, theirs in repeats.items()}
    plain |= {"classifier": "Logits/Logits", "aux_head.classifier": "AuxLogits/Logits"}
    return prefixed("", "InceptionResnetV2/", {**expanded(blocks, conv_norm), **plain})
