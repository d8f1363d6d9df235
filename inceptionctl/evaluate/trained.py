"""A trained network, loaded from a run directory or one of its checkpoints."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from inceptionctl.errors import CheckpointError, RecipeError
from inceptionctl.models import NetworkArguments, build_model
from inceptionctl.recipe.load import recipe_from_dict
from inceptionctl.recipe.schema import Recipe
from inceptionctl.run import Run, is_run, located
from inceptionctl.train import checkpoint_files as files
from inceptionctl.train.checkpoint import load_weights, progress_of
from inceptionctl.train.checkpoint_choice import Choice, choose_checkpoint

Weights = Literal["ema", "raw"]

WEIGHT_FILES: dict[Weights, str] = {"ema": "ema.safetensors", "raw": "model.safetensors"}


@dataclass(frozen=True)
class Trained:
    """A network in evaluation mode with fp32 weights, and their origin."""

    model: nn.Module
    """Images float32 [N, 3, px, px], normalised by the recipe's data.mean and data.std -> logits [N, number of classes]."""
    recipe: Recipe
    """The checkpoint's, with data paths that exist from here, if there are any."""
    classes: tuple[str, ...]
    """Names in the order of the logits."""
    step: int
    checkpoint: Path
    weights: Weights
    choice: Choice | None = None
    """Why this checkpoint, if a run was named."""

    @property
    def run(self) -> Run | None:
        """The run directory that the checkpoint lies in, if it does."""
        folder = self.checkpoint.absolute().parent
        if folder.name != "checkpoints" or not is_run(folder.parent):
            return None
        # As the user spelled it, where that is possible: `runs/x` is easier to read than an absolute path.
        return Run(self.checkpoint.parent.parent if len(self.checkpoint.parts) > 2 else folder.parent)

    @property
    def weights_file(self) -> Path:
        """The file that the weights were read from."""
        return self.checkpoint / WEIGHT_FILES[self.weights]

    @property
    def weights_sha256(self) -> str:
        """sha256 of `weights_file`, from the manifest that it was verified against."""
        manifest = json.loads((self.checkpoint / "manifest.json").read_text(encoding="utf-8"))
        return str(manifest["files"][self.weights_file.name]["sha256"])


def load_trained(path: Path, weights: Weights, device: torch.device, which: str | None = None) -> Trained:
    """Load the EMA (`ema`) or the last (`raw`) weights of a run's checkpoint, or of a checkpoint folder.

    `which` is `best`, `latest` or a step; by default the best, where the run keeps one (train/checkpoint_choice.py).

    Every file of the checkpoint is verified first. Raises CheckpointError when there is none, it is damaged, or this version
    cannot read it.
    """
    choice = choose_checkpoint(path, which)
    checkpoint = files.open_checkpoint(choice.checkpoint)
    progress = progress_of(checkpoint)
    recipe = _kept_recipe(checkpoint, progress.recipe)
    if len(progress.classes) != recipe.model.num_classes:
        raise CheckpointError(
            f"{checkpoint}/progress.json names {len(progress.classes)} classes, the network has {recipe.model.num_classes}",
            "use another checkpoint of the run",
        )
    model = empty_network(recipe.model.network())
    load_weights(checkpoint / WEIGHT_FILES[weights], model)
    trained = Trained(model.to(device), recipe, tuple(progress.classes), progress.step, checkpoint, weights, choice)
    return replace(trained, recipe=located(recipe, trained.run))


def empty_network(arguments: NetworkArguments) -> nn.Module:
    """A network on the CPU in evaluation mode without initialised weights: all of them must be loaded.

    `arguments` are those of `build_model`; the auxiliary head is among the weights where it was trained with.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = build_model(**arguments)
    # timm's networks are real even here, and must stay so: they keep tables as buffers that no checkpoint holds.
    if any(parameter.is_meta for parameter in model.parameters()):
        model = model.to_empty(device="cpu")
    return model.eval().requires_grad_(False)


def _kept_recipe(checkpoint: Path, kept: dict[str, object]) -> Recipe:
    try:
        return recipe_from_dict(kept, f"{checkpoint}/progress.json")
    except RecipeError as error:
        problems = "".join(f"\n  {problem.message}" for problem in error.problems)
        raise CheckpointError(
            f"this version cannot read {checkpoint}: {error.message}{problems}", "use the inceptionctl that wrote it"
        ) from None
