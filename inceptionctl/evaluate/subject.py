"""What is evaluated: a checkpoint, weights of another program, or an export, behind one interface."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from inceptionctl.cores import usable_cores
from inceptionctl.data.transforms import Preparation
from inceptionctl.distributed.session import Machine
from inceptionctl.errors import RecipeError
from inceptionctl.evaluate.trained import Trained, Weights
from inceptionctl.models import build_model
from inceptionctl.recipe.schema import Recipe
from inceptionctl.train.checkpoint_choice import Choice
from inceptionctl.train.inputs import preparation_of
from inceptionctl.train.step import Precision, allow_tf32, autocast


@dataclass(frozen=True)
class Subject:
    """A network to evaluate, whatever it was loaded from."""

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
    """Of the weights: an interrupted evaluation resumes only with the same."""
    tf32: bool = False
    """Whether a GPU runs fp32 matmuls and convolutions in TF32."""
    in_threads: bool = False
    """Whether several batches run at once, one thread each; otherwise `logits` uses all cores itself."""
    takes_pictures: bool = False
    """Whether the network includes its preprocessing; then only its own crop can be evaluated."""
    choice: Choice | None = None
    """Why this checkpoint of a run was taken."""


def check_protocol(subject: Subject, name: str) -> None:
    """Raise RecipeError for a protocol other than `single` of a network that includes its preprocessing."""
    if subject.takes_pictures and name != "single":
        raise RecipeError(
            f"{subject.source} crops pictures by itself, so there is no --protocol {name} of it",
            "evaluate the run, or an export without --preprocessing",
        )


def subject_of(trained: Trained, precision: Precision, device: torch.device) -> Subject:
    """A checkpoint's network on its device."""
    return _subject(
        trained.model,
        trained.recipe,
        precision,
        device,
        classes=trained.classes,
        weights=trained.weights,
        step=trained.step,
        source=trained.checkpoint,
        sha256=trained.weights_sha256,
        choice=trained.choice,
    )


def untrained_subject(recipe: Recipe, precision: Precision, device: torch.device) -> Subject:
    """A recipe's network with initial weights, to measure its cost."""
    torch.manual_seed(recipe.train.seed)
    model = build_model(**recipe.model.network()).to(device).eval().requires_grad_(False)
    classes = tuple(map(str, range(recipe.model.num_classes)))
    return _subject(model, recipe, precision, device, classes=classes, weights="raw", step=0, source=Path(), sha256="")


def _subject(model: nn.Module, recipe: Recipe, precision: Precision, device: torch.device, **origin: Any) -> Subject:
    # The loaders' images are channels_last: with the weights in the same format nothing is copied.
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    tf32 = recipe.train.tf32

    def logits(images: Tensor) -> Tensor:
        allow_tf32(tf32)
        with autocast(precision, device):
            answer: Tensor = model(images)
        return answer.float()

    return Subject(
        logits,
        preparation=preparation_of(recipe),
        device=device,
        precision=precision,
        network=recipe.model.name,
        tf32=tf32,
        in_threads=device.type == "cpu",
        **origin,
    )


def claim_machine() -> Machine:
    """Take cuda:0 if there is a GPU, else the CPU; torch computes with every core that this process may run on.

    fp32 is computed without TF32, as exports are; a checkpoint's network goes by its recipe's `train.tf32`.
    """
    allow_tf32(False)
    num_threads = usable_cores()
    torch.set_num_threads(num_threads)
    return Machine(torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu"), num_threads)
