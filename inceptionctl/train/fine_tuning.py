"""Start from weights that were trained before, and hold some of them still."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from inceptionctl.errors import CheckpointError, RecipeError
from inceptionctl.nearby import did_you_mean
from inceptionctl.recipe.schema import ModelSection
from inceptionctl.train import checkpoint_files as files
from inceptionctl.train.checkpoint import progress_of, read_tensors


@dataclass(frozen=True)
class InitialWeights:
    """Weights of another training: `tensors` by name, of a `network` of MODELS with `num_classes` logits; `source` is their file."""

    source: Path
    network: str
    num_classes: int
    tensors: dict[str, Tensor]


def read_initial_weights(path: Path) -> InitialWeights:
    """The averaged weights of a run or checkpoint, or those of an export: its folder, or its model.safetensors.

    Raises CheckpointError when there are none, they are damaged, or the network that they are of is not told.
    """
    export = path if path.suffix == ".safetensors" else path / "model.safetensors"
    if export.is_file() and export.with_name("config.json").is_file():
        config = _config(export.with_name("config.json"))
        return InitialWeights(export, str(config["architecture"]), int(config["num_classes"]), read_tensors(export))
    if path.suffix == ".safetensors":
        what = "has no config.json beside it" if path.is_file() else "does not exist"
        raise CheckpointError(
            f"model.init_from: {path} {what}", f"{did_you_mean(path)}name a run, a checkpoint folder or a safetensors export"
        )
    if not path.exists():
        raise CheckpointError(
            f"model.init_from: there is no {path}",
            f"{did_you_mean(path)}name a run, a checkpoint folder or a safetensors export",
        )
    checkpoint = files.open_checkpoint(path)
    model = progress_of(checkpoint).recipe.get("model", {})
    weights = checkpoint / "ema.safetensors"
    return InitialWeights(weights, str(model.get("name")), int(model.get("num_classes", 0)), read_tensors(weights))


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not {"architecture", "num_classes"} <= config.keys():
            raise ValueError("architecture or num_classes is missing")
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"model.init_from: cannot read {path}: {error}", "name an export of inceptionctl") from None
    return dict(config)


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
    _check(initial, own, fresh, unused)
    with torch.no_grad():
        for name in own.keys() - fresh:
            own[name].copy_(initial.tensors[name])
    return _in_words(initial, len(own) - len(fresh), fresh, unused, section.num_classes)


def _is_head(initial: InitialWeights, theirs: Tensor, ours: Tensor, section: ModelSection) -> bool:
    """Whether a tensor has a row a class and the numbers of classes differ; a test of shapes, since timm's networks name heads freely."""
    if initial.num_classes == section.num_classes or ours.ndim == 0 or theirs.ndim == 0:
        return False
    rows = (theirs.shape[0], ours.shape[0]) == (initial.num_classes, section.num_classes)
    return rows and theirs.shape[1:] == ours.shape[1:]


def _check(initial: InitialWeights, own: dict[str, Tensor], fresh: set[str], unused: set[str]) -> None:
    theirs = initial.tensors
    wrong = [f"{name}: missing" for name in own if name not in theirs and name not in fresh]
    wrong += [f"{name}: not in this network" for name in theirs if name not in own and name not in unused]
    wrong += [
        f"{name}: {tuple(theirs[name].shape)} in the file, {tuple(own[name].shape)} in the network"
        for name in own
        if name in theirs and name not in fresh and theirs[name].shape != own[name].shape
    ]
    if wrong:
        shown = "\n  ".join(wrong[:5]) + (f"\n  ... and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise CheckpointError(
            f"model.init_from: {initial.source} does not fit the network:\n  {shown}",
            "use the width and the options of model that the weights were trained with",
        )


def _in_words(initial: InitialWeights, taken: int, fresh: set[str], unused: set[str], num_classes: int) -> str:
    words = f"starts from the weights of {initial.source}: {taken} tensors taken"
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
    modules = dict(model.named_modules())
    unknown = [name for name in blocks if name not in modules or not name]
    if unknown:
        known = ", ".join(name for name, child in model.named_children() if any(True for _ in child.parameters()))
        raise RecipeError(f"model.freeze: the network has no block {', '.join(map(repr, unknown))}", f"its blocks are {known}")
    return [modules[name].requires_grad_(False) for name in blocks]
