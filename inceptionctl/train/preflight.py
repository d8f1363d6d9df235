"""What keeps a recipe from being trained here: the one check of `recipes check`, `train --dry-run`, `train`, `ensemble` and `slurm submit`.

torch is imported only for what needs the network: frozen blocks, first weights, and parts that are timm's.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from inceptionctl.data.dataset import ImageSet, check_num_classes, open_data, open_split
from inceptionctl.data.sources.exclusions import subset_of
from inceptionctl.errors import CheckpointError, InceptionctlError, Problem, RecipeError
from inceptionctl.models import build_model, is_timm
from inceptionctl.published import parse
from inceptionctl.recipe.model_section import AUTO_CLASSES
from inceptionctl.recipe.schema import Recipe
from inceptionctl.train.inheritance import WeightsSource, find_weights, first_weights
from inceptionctl.train.trackers import check_package
from inceptionctl.words import counted, has_top5

if TYPE_CHECKING:
    from torch import nn

Opened = tuple[ImageSet, ImageSet]
"""The images that a recipe trains on, and those that its validations while training are made on."""


@dataclass(frozen=True)
class Fault:
    """Something that a training would end with, and the key of the recipe that it comes from."""

    key: str
    error: InceptionctlError


def faults(
    recipe: Recipe, *, begins: bool = True, data: bool = True, verified: bool = True
) -> tuple[list[Fault], Opened | None]:
    """Everything that keeps a recipe from being trained on this machine, whatever the ranks; and the images, where nothing is wrong with them.

    `begins` is false for a run that resumes from a checkpoint and needs no first weights, `data` for a data set that is elsewhere,
    `verified` where somebody else compares the files of first weights with their manifest; their values are never read.
    """
    opened: list[Opened] = []
    found = _fault("data.root", lambda: opened.append(open_images(recipe))) if data else []
    if opened:
        recipe = recipe.with_classes(len(opened[0][0].classes))
    found += _network_faults(recipe, begins, verified)
    found += _fault("checkpoint.best_by", lambda: _refuse_best_of_all(recipe))
    found += _fault("train.class_weights", lambda: _refuse_other_weights(recipe))
    for tracker in ("wandb", "mlflow"):
        if getattr(recipe.log, tracker).enabled:
            found += _fault(f"log.{tracker}.enabled", partial(check_package, tracker))
    return sorted(found, key=lambda fault: fault.error.exit_code), opened[0] if opened else None


def refuse(name: str, found: list[Fault], where: Callable[[str], str | None] = lambda key: None) -> None:
    """Raise what `faults` has found as one error with the exit code of the first; `where` tells the line of a key."""
    if not found:
        return
    if len(found) == 1 and found[0].key == "data.root":
        raise found[0].error
    problems = [problem for fault in found for problem in _problems(fault, where(fault.key))]
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    raise type(found[0].error)(f"recipe '{name}' cannot be trained here: {count}", problems=problems)


def _problems(fault: Fault, where: str | None) -> list[Problem]:
    error = fault.error
    if error.problems:
        return list(error.problems)
    told = error.message if fault.key == "data.root" or error.message.startswith(fault.key) else f"{fault.key}: {error.message}"
    return [Problem(where or "recipe", told, error.hint)]


def _fault(key: str, look: Callable[[], object]) -> list[Fault]:
    try:
        look()
    except InceptionctlError as error:
        return [Fault(key, error)]
    return []


def _refuse_best_of_all(recipe: Recipe) -> None:
    number = recipe.model.num_classes
    if recipe.checkpoint.best_by == "top5_error" and number != AUTO_CLASSES and not has_top5(number):
        raise RecipeError(
            f"the top-5 error of {counted(recipe.model.num_classes, 'class', 'classes')} is always 0: the first checkpoint would stay the best",
            "set checkpoint.best_by to top1_error or loss",
        )


def _refuse_other_weights(recipe: Recipe) -> None:
    weights, number = recipe.train.class_weights, recipe.model.num_classes
    if isinstance(weights, list) and number not in (AUTO_CLASSES, len(weights)):
        raise RecipeError(
            f"train.class_weights has {counted(len(weights), 'number')}, the network {counted(number, 'class', 'classes')}",
            "give one weight per class, in the order of the classes, or `balanced`",
        )


def _network_faults(recipe: Recipe, begins: bool, verified: bool) -> Iterator[Fault]:
    source = first_weights(recipe) if begins else None
    if source and not source.exists():
        yield from _fault("model.init_from", partial(_refuse_missing, recipe, source))
        source = None
    if not (
        source or recipe.model.freeze or recipe.model.unfreeze or is_timm(recipe.model.name) or recipe.optim.name == "lamb"
    ):
        return
    try:
        model = _on_no_device(recipe)
    except InceptionctlError as error:
        yield Fault("model.name", error)
        return
    if source:
        yield from _fault("model.init_from", lambda: _start(recipe, find_weights(source, verified=verified), model))
    yield from _fault("model.freeze", lambda: _freeze(recipe, model))
    for problem in _unfreezing_problems(recipe, model, begins):
        yield Fault("model.unfreeze", RecipeError(*problem))
    if is_timm(recipe.model.name):  # what ours take is known by their names
        yield from _fault("train.progressive_resizing", lambda: _take_sizes(recipe, model))
    yield from _fault("optim.name", lambda: _optimizer(recipe, model))


def _refuse_missing(recipe: Recipe, source: Path) -> None:
    if parse(str(recipe.model.init_from)):
        raise CheckpointError(f"model.init_from: {recipe.model.init_from} is not fetched yet", fetch_command(recipe))
    find_weights(source)


def fetch_command(recipe: Recipe) -> str:
    """The hint for published weights that are not on this machine."""
    return f"`inceptionctl weights fetch {shlex.quote(str(recipe.model.init_from))} --model {recipe.model.name}`"


def _on_no_device(recipe: Recipe) -> nn.Module:
    import torch

    with torch.device("meta"):
        return build_model(**recipe.with_classes().model.network())


def _start(recipe: Recipe, source: WeightsSource, model: nn.Module) -> None:
    from inceptionctl.train.fine_tuning import read_initial_weights, start_from
    from inceptionctl.train.inheritance import refuse_another_function

    initial = read_initial_weights(source, values=False)
    start_from(initial, model, recipe.model)
    refuse_another_function(recipe, initial.expects, initial.source)


def _freeze(recipe: Recipe, model: nn.Module) -> None:
    from inceptionctl.train.fine_tuning import freeze

    freeze(model, recipe.model.freeze)


def _unfreezing_problems(recipe: Recipe, model: nn.Module, begins: bool) -> list[tuple[str, str]]:
    from inceptionctl.train.unfreezing import unfreezing_problems

    # A run that is shortened may end before an epoch of them.
    return unfreezing_problems(model, recipe.model, recipe.train.epochs if begins else math.inf)


def _take_sizes(recipe: Recipe, model: nn.Module) -> None:
    from inceptionctl.models.timm_network import check_input

    for px in (recipe.train.progressive_resizing or {}).values():
        check_input(recipe.model.name, model, px)


def _optimizer(recipe: Recipe, model: nn.Module) -> None:
    from inceptionctl.train.optim import build_optimizer

    build_optimizer(model, recipe.optim, recipe.schedule.base_lr)


def with_counted_classes(recipe: Recipe) -> Recipe:
    """The recipe with the number of classes of its data set, where it says `auto`. Raises DataError without training images."""
    if recipe.model.num_classes != AUTO_CLASSES:
        return recipe
    root = recipe.data.root_path
    train = open_split(root, "train", **recipe.data.sources(root))
    check_num_classes(train)
    return recipe.with_classes(len(train.classes))


def open_images(recipe: Recipe) -> Opened:
    """Training images, and the validation images of `evaluate.subset`.

    Raises DataError for data that `open_data` refuses, and for a subset that the validation images do not have.
    """
    root = recipe.data.root_path
    train, val = open_data(root, recipe.model.num_classes or None, **recipe.data.sources(root))
    return train, subset_of(val, recipe.evaluate.subset, recipe.evaluate.blacklist_path)
