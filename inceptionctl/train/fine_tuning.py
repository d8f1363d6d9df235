"""Start from weights that were trained before, and hold some of them still."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from inceptionctl.errors import CheckpointError, RecipeError
from inceptionctl.recipe.model_section import ModelSection
from inceptionctl.train.checkpoint import misfits, read_shapes, read_tensors
from inceptionctl.train.inheritance import WeightsSource
from inceptionctl.words import counted


@dataclass(frozen=True)
class InitialWeights:
    """Weights of another training: `tensors` by name, of a `network` of MODELS with `num_classes` logits; `source` is their file."""

    source: Path
    network: str
    num_classes: int
    tensors: dict[str, Tensor]
    expects: Mapping[str, Any] = field(default_factory=dict)
    """What they expect of images and network, by the recipe's keys (train/inheritance.py)."""


def read_initial_weights(found: WeightsSource, *, values: bool = True) -> InitialWeights:
    """The tensors of what `find_weights` has found; without `values` on the meta device, which the file's header is enough for.

    Raises CheckpointError when they cannot be read.
    """
    tensors = read_tensors(found.file) if values else read_shapes(found.file)
    return InitialWeights(found.file, found.network, found.num_classes, tensors, found.expects)


def start_from(initial: InitialWeights, model: nn.Module, section: ModelSection) -> str:
    """Copy weights and statistics into a network, in place; say in words what was taken and what is new.

    The classifiers (the auxiliary head's too) keep their random start where the number of classes differs; an auxiliary head that
    only one side has is left out. Raises CheckpointError for another network, listing every other tensor that does not fit.
    """
    if initial.network != section.name:
        raise CheckpointError(
            f"model.init_from: {initial.source} is of {initial.network}, the recipe is of {section.name}",
            f"set model.name to {initial.network}, or leave model.init_from out",
        )
    own = model.state_dict()
    fresh = {name for name, value in initial.tensors.items() if name in own and _is_head(initial, value, own[name], section)}
    fresh |= {name for name in own if name.startswith("aux_head.") and name not in initial.tensors}
    unused = {name for name in initial.tensors if name not in own and name.startswith("aux_head.")}
    unused |= fresh & initial.tensors.keys()
    wanted = {name: value for name, value in own.items() if name not in fresh}
    wrong = misfits({name: value for name, value in initial.tensors.items() if name not in unused}, wanted)
    if wrong:
        raise CheckpointError(
            f"model.init_from: {initial.source} does not fit the network:\n  {wrong}",
            "use the width and the options of model that the weights were trained with",
        )
    with torch.no_grad():
        for name, value in wanted.items():
            value.copy_(initial.tensors[name])
    return _in_words(initial, len(wanted), fresh, unused, section.num_classes)


def _is_head(initial: InitialWeights, theirs: Tensor, ours: Tensor, section: ModelSection) -> bool:
    """Whether a tensor has a row a class and the numbers of classes differ; a test of shapes, since timm's networks name heads freely."""
    if initial.num_classes == section.num_classes or ours.ndim == 0 or theirs.ndim == 0:
        return False
    rows = (theirs.shape[0], ours.shape[0]) == (initial.num_classes, section.num_classes)
    return rows and theirs.shape[1:] == ours.shape[1:]


def _in_words(initial: InitialWeights, taken: int, fresh: set[str], unused: set[str], num_classes: int) -> str:
    words = f"starts from the weights of {initial.source}: {counted(taken, 'tensor')} taken"
    if fresh:
        reason = f" ({initial.num_classes} classes there, {num_classes} here)" if initial.num_classes != num_classes else ""
        words += f"; new: {', '.join(sorted(fresh))}{reason}"
    if unused:
        words += f"; not used: {', '.join(sorted(unused))}"
    return words


def freeze(model: nn.Module, blocks: Sequence[str]) -> list[nn.Module]:
    """Take the gradients off these blocks, named as in `models show`, and give the blocks back: they belong in evaluation mode.

    Raises RecipeError for a name that is no block, with those that are.
    """
    if problem := block_problem(model, blocks, "model.freeze"):
        raise RecipeError(*problem)
    modules = dict(model.named_modules())
    return [modules[name].requires_grad_(False) for name in blocks]


def block_problem(model: nn.Module, blocks: Sequence[str], key: str) -> tuple[str, str] | None:
    """What is wrong with names of blocks in a key, and a hint; None where the network has them all."""
    modules = dict(model.named_modules())
    unknown = [name for name in blocks if name not in modules or not name]
    if not unknown:
        return None
    known = ", ".join(name for name, child in model.named_children() if any(True for _ in child.parameters()))
    return f"{key}: the network has no block {', '.join(map(repr, unknown))}", f"its blocks are {known}"
