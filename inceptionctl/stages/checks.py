"""The check of a recipe before it is trained, with the places of its keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from inceptionctl import console

if TYPE_CHECKING:
    from inceptionctl.distributed.local import LocalRanks
    from inceptionctl.recipe import Ensemble, Study
    from inceptionctl.recipe.schema import Recipe
    from inceptionctl.run import Run
    from inceptionctl.train.preflight import Opened


def assume_classes(recipe: Recipe, *, told: bool = True) -> Recipe:
    """The recipe with ImageNet's number of classes where it is left to a data set that is not looked at, which is `told`."""
    assumed = recipe.with_classes()
    if told and assumed is not recipe:
        console.say(
            f"model.num_classes is auto and no data set is looked at: {assumed.model.num_classes:,} classes are assumed"
        )
    return assumed


def check_recipe(
    name: str, recipe: Recipe | Ensemble | Study, settings: Sequence[str], *, data: bool = True, begins: bool = True
) -> list[Opened | None]:
    """Raise all that keeps a recipe, each member of an ensemble, each arm of a study from being trained here, with file:line; else return
    each one's images.

    A data set or initial weights that are only placeholders of a bundled recipe may be missing, with a warning, and so may published weights,
    which a training fetches. `data` is false for a data set on another machine, which gives None; `begins` is false for a run that is
    resumed and needs no initial weights.
    """
    from inceptionctl.published import parse
    from inceptionctl.recipe import Ensemble, Recipe, trainings_of
    from inceptionctl.recipe.ensemble_recipe import is_placeholder, place_of
    from inceptionctl.train.inheritance import first_weights
    from inceptionctl.train.preflight import Fault, faults, fetch_command, refuse

    opened: list[Opened | None] = []
    members = {"": recipe} if isinstance(recipe, Recipe) else trainings_of(recipe)

    def place(key: str, member: str) -> str | None:
        return place_of(name, settings, key, member if isinstance(recipe, Ensemble) else "")

    found: list[tuple[str, Fault]] = []
    missing: dict[str, str] = {}
    for member, named in members.items():
        one = _inherited(named) if begins else named

        def lacks(key: str, path: Path | None, member: str = member) -> bool:
            return path is not None and not path.exists() and is_placeholder(place(key, member))

        root, first = one.data.root_path, first_weights(one)
        no_root, no_first = lacks("data.root", root) and not one.data.train_csv, lacks("model.init_from", first)
        if first and not first.exists() and parse(str(one.model.init_from)):
            no_first = True
            if begins:
                missing[f"initial weights {one.model.init_from}"] = fetch_command(one)
        elif no_first and begins:
            missing[f"initial weights {first}"] = "name yours with `--set model.init_from=RUN`"
        if no_root and data:
            missing[f"data set {root}"] = "name yours with `--set data.root=FOLDER`"
        of_one, images = faults(one, begins=begins and not no_first, data=data and not no_root)
        found += [(member, fault) for fault in of_one]
        opened.append(images)
    for what, hint in missing.items():
        console.warn(f"{what}: not found, so not checked", hint)
    of_each = {str(fault.error): (member, fault) for member, fault in found}  # what is wrong with all is told once
    places = {fault.key: place(fault.key, member) for member, fault in of_each.values()}
    refuse(name, [fault for _, fault in of_each.values()], places.get)
    return opened


def _inherited(recipe: Recipe) -> Recipe:
    """With what first weights expect, as a training takes them; a conflict is left to `faults`, which tells its key."""
    from inceptionctl.errors import RecipeError
    from inceptionctl.train.inheritance import inherit

    try:
        return inherit(recipe)
    except RecipeError:
        return recipe


def ranks_of_each(gpus: int | None, cpu_ranks: int | None) -> LocalRanks:
    """What each of several trainings must fit on, as options of `train` say; without them one rank: it takes as many as divide the batch."""
    from inceptionctl.distributed.local import LocalRanks, choose_ranks

    here = choose_ranks(gpus, cpu_ranks)
    return LocalRanks(here.devices[:1], here.on_cpu) if gpus is None and cpu_ranks is None else here


def check_batch(recipe: Recipe, ranks: int, option: str | None = None) -> None:
    """Raise RecipeError if the batch cannot be split over the ranks, or batch norm gets too few images; see `check_batch_norm` for `option`."""
    from inceptionctl.train.batch import plan_batch, refuse_odd_pairs

    batch = plan_batch(recipe.train.global_batch_size, ranks, recipe.train.micro_batch_size)
    refuse_odd_pairs(recipe, batch)
    if batch.micro_batch_size == 1:  # torch, which this imports, takes seconds
        from inceptionctl.train.batch import check_batch_norm

        check_batch_norm(recipe, batch, option)


def check_steps(recipe: Recipe, name: str, settings: Sequence[str], ranks: int) -> None:
    """Raise what keeps steps of a recipe's network from being measured, without its data and first weights.

    The micro batch is the one that --micro-batch-size names, with no other images in a step.
    """
    from inceptionctl.recipe.ensemble_recipe import place_of
    from inceptionctl.train.preflight import faults, refuse

    check_batch(recipe, ranks, "--micro-batch-size")
    found, _ = faults(recipe, begins=False, data=False)
    refuse(name, found, lambda key: place_of(name, settings, key))


def check_inputs(
    recipe: Recipe,
    ranks: LocalRanks,
    name: str,
    where: Callable[[str], str | None] = lambda key: None,
    *,
    begins: bool,
    verified: bool = True,
    run: Run | None = None,
) -> Opened:
    """Raise all problems before processes are started and a run directory is created; return the images to train and validate on.

    `where` gives the place of a key, `run` is what a relative data.root refers to. Without `verified`, initial weights are left to the ranks
    to compare with their manifest.
    """
    from inceptionctl.errors import EnvironmentFault
    from inceptionctl.run import located
    from inceptionctl.train.preflight import faults, refuse

    check_batch(recipe, ranks.size)
    if recipe.data.decodes_on_gpu and ranks.on_cpu:
        raise EnvironmentFault(f"data.decode is `{recipe.data.decode}`, but there is no GPU", "set data.decode to auto or cpu")
    found, images = faults(located(recipe, run), begins=begins, verified=verified)
    refuse(name, found, where)
    assert images is not None
    return images
