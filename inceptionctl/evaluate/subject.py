"""What is evaluated: a checkpoint, weights of another program, or an export, all asked alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from inceptionctl.data.preparation import Preparation
from inceptionctl.errors import RecipeError
from inceptionctl.evaluate.trained import Trained, Weights
from inceptionctl.models import build_model
from inceptionctl.recipe.schema import Recipe
from inceptionctl.train.checkpoint_choice import Choice
from inceptionctl.train.inputs import preparation_of
from inceptionctl.train.step import Precision, allow_tf32, autocast


@dataclass(frozen=True)
class Subject:
    """A network that answers with logits."""

    logits: Callable[[Tensor], Tensor]
    """Images float32 [N, 3, height, width], normalised, on `device`, -> logits float32 [N, classes] on any device.

    Where `takes_pictures`: uint8 [1, height, width, 3] as decoded, on the CPU."""
    classes: tuple[str, ...]
    preparation: Preparation
    device: torch.device
    precision: Precision | Literal["fp16", "int8"]
    weights: Weights
    step: int
    source: Path
    """The checkpoint folder or export file."""
    network: str
    """Its name in `inceptionctl models list`."""
    sha256: str
    """Of the weights, to tell whether an evaluation begun earlier was of the same."""
    tf32: bool = False
    """Whether a GPU computes what is fp32 in TF32."""
    in_threads: bool = False
    """Whether several batches are asked at once, each with one thread; else `logits` uses the cores by itself."""
    takes_pictures: bool = False
    """Whether the network prepares pictures by itself; then there is no other crop than its own."""
    choice: Choice | None = None
    """Why this checkpoint of a run."""


def check_protocol(subject: Subject, name: str) -> None:
    """Raise RecipeError for another crop than its own of a network that prepares pictures by itself."""
    if subject.takes_pictures and name != "single":
        raise RecipeError(
            f"{subject.source} crops pictures by itself, so there is no --protocol {name} of it",
            "evaluate the run, or an export without --preprocessing",
        )


def subject_of(trained: Trained, precision: Precision, device: torch.device) -> Subject:
    """A checkpoint's network on the device that it lies on."""
    return Subject(
        _asking(trained.model, precision, trained.recipe.train.tf32, device),
        trained.classes,
        preparation_of(trained.recipe),
        device,
        precision,
        trained.weights,
        trained.step,
        trained.checkpoint,
        trained.recipe.model.name,
        trained.weights_sha256,
        tf32=trained.recipe.train.tf32,
        in_threads=device.type == "cpu",
        choice=trained.choice,
    )


def untrained_subject(recipe: Recipe, precision: Precision, device: torch.device) -> Subject:
    """A recipe's network with the weights that a training begins with, to measure what it costs."""
    torch.manual_seed(recipe.train.seed)
    model = build_model(**recipe.model.network()).to(device).eval().requires_grad_(False)
    return Subject(
        _asking(model, precision, recipe.train.tf32, device),
        tuple(map(str, range(recipe.model.num_classes))),
        preparation_of(recipe),
        device,
        precision,
        "raw",
        0,
        Path(),
        recipe.model.name,
        "",
        tf32=recipe.train.tf32,
        in_threads=device.type == "cpu",
    )


def _asking(model: nn.Module, precision: Precision, tf32: bool, device: torch.device) -> Callable[[Tensor], Tensor]:
    # The loaders' images are channels_last; with weights to match nothing is copied on the way.
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def logits(images: Tensor) -> Tensor:
        allow_tf32(tf32)
        with autocast(precision, device):
            answer: Tensor = model(images)
        return answer.float()

    return logits
