"""Building blocks of name tables: small dictionaries from our modules to another program's, joined and prefixed.

A table holds only modules that own tensors: convolutions, norms and linear layers. Each is bijective.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

Kind = Literal["torch", "tensorflow"]
Names = dict[str, str]
ConvNorm = Callable[[str, str], Names]  # the two tables' names of a convolution with its norm -> those of its parts

# TF-slim's names of the tensors of a layer and of a norm, for torch's.
LEAVES = {"weight": "weights", "bias": "biases"}
NORM_LEAVES = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


def chain(ours: str, *theirs: str) -> Names:
    """Members 0, 1, ... of a sequence of ours."""
    return {f"{ours}.{i}": name for i, name in enumerate(theirs)}


def prefixed(ours: str, theirs: str, names: Mapping[str, str]) -> Names:
    """The names inside a block, with prefixes that include the separators."""
    return {f"{ours}{name}": f"{theirs}{other}" for name, other in names.items()}


def expanded(blocks: Mapping[str, str], conv_norm: ConvNorm) -> Names:
    """Each of our convolutions with norm, expanded into its modules."""
    return {part: other for ours, theirs in blocks.items() for part, other in conv_norm(ours, theirs).items()}


def their_tensor(names: Names, tensor: str, kind: Kind) -> str | None:
    """Their name of a tensor of ours; None where they have none."""
    module, _, leaf = tensor.rpartition(".")
    theirs = names.get(module)
    if theirs is None:
        return None
    if kind == "torch":
        return f"{theirs}.{leaf}"
    known = (NORM_LEAVES if theirs.endswith("/BatchNorm") else LEAVES).get(leaf)
    return f"{theirs}/{known}" if known else None
