"""What keeps a recipe from being trained here: the one check of `recipes check`, `train --dry-run`, `train`, `ensemble` and `slurm submit`.

torch is imported only for what needs the network: frozen blocks, first weights, and parts that are timm's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from inceptionctl.errors import InceptionctlError, Problem
from inceptionctl.models import build_model, is_timm
from inceptionctl.recipe.data_section import expanded
from inceptionctl.recipe.schema import Recipe
from inceptionctl.train.images import open_images
from inceptionctl.train.inheritance import find_weights

if TYPE_CHECKING:
    from torch import nn


def first_weights(recipe: Recipe) -> Path | None:
    """The path that `model.init_from` names."""
    return expanded(recipe.model.init_from) if recipe.model.init_from else None


@dataclass(frozen=True)
class Fault:
    """Something that a training would end with, and the key of the recipe that it comes from."""

    key: str
    error: InceptionctlError


def faults(
    recipe: Recipe, *, begins: bool = True, data: bool = True, images: Callable[[Recipe], object] = open_images
) -> list[Fault]:
    """Everything that keeps a recipe from being trained on this machine, whatever the ranks.

    `begins` is false for a run that goes on from a checkpoint and needs no first weights, `data` for a data set that is elsewhere;
    `images` opens it, for those who go on with it.
    """
    found = list(_network_faults(recipe, begins))
    if data:
        found += _fault("data.root", lambda: images(recipe))
    return sorted(found, key=lambda fault: fault.error.exit_code)


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


def _network_faults(recipe: Recipe, begins: bool) -> Iterator[Fault]:
    source = first_weights(recipe) if begins else None
    if source and not source.exists():
        yield from _fault("model.init_from", partial(find_weights, source))
        source = None
    if not (source or recipe.model.freeze or is_timm(recipe.model.name) or recipe.optim.name == "lamb"):
        return
    try:
        model = _on_no_device(recipe)
    except InceptionctlError as error:
        yield Fault("model.name", error)
        return
    if source:
        yield from _fault("model.init_from", lambda: _start(recipe, source, model))
    yield from _fault("model.freeze", lambda: _freeze(recipe, model))
    yield from _fault("optim.name", lambda: _optimizer(recipe, model))


def _on_no_device(recipe: Recipe) -> nn.Module:
    import torch

    with torch.device("meta"):
        return build_model(**recipe.model.network())


def _start(recipe: Recipe, source: Path, model: nn.Module) -> None:
    from inceptionctl.train.fine_tuning import read_initial_weights, start_from
    from inceptionctl.train.inheritance import refuse_another_function

    initial = read_initial_weights(source)
    start_from(initial, model, recipe.model)
    refuse_another_function(recipe, initial.expects, initial.source)


def _freeze(recipe: Recipe, model: nn.Module) -> None:
    from inceptionctl.train.fine_tuning import freeze

    freeze(model, recipe.model.freeze)


def _optimizer(recipe: Recipe, model: nn.Module) -> None:
    from inceptionctl.train.optim import build_optimizer

    build_optimizer(model, recipe.optim, recipe.schedule.base_lr)
