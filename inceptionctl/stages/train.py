"""`inceptionctl train` as a call: start the ranks of this machine and wait for them, or be one rank of a job."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from inceptionctl import console
from inceptionctl.errors import RanksEndedError, ResumeLater
from inceptionctl.stages.commands import command_words

if TYPE_CHECKING:
    from inceptionctl.distributed.local import LocalRanks
    from inceptionctl.recipe.schema import Recipe
    from inceptionctl.run import Run
    from inceptionctl.train.preflight import Opened
    from inceptionctl.train.start import Start


@dataclass(frozen=True)
class TrainRequest:
    """What to train, where, and on what."""

    recipe: str
    """Bundled name or path."""
    settings: tuple[str, ...] = ()
    """`key=value`, as --set takes them."""
    gpus: int | None = None
    """GPUs of this machine; all of them by default."""
    cpu_ranks: int | None = None
    output: Path | None = None
    """Run directory; runs/DATE_MODEL_FINGERPRINT by default."""
    resume: str = "auto"
    """`auto`, `never`, or a checkpoint."""
    port: int | None = None
    """TCP port of the ranks; a free one by default."""


def train(request: TrainRequest) -> Run:
    """Train a recipe, or resume its run; the run directory.

    Under torchrun or srun (RANK or SLURM_* set) this process is one rank of the job. Raises ResumeLater when a signal has stopped the
    training, RanksEndedError when its ranks ended with an error, which they reported on stderr, and whatever keeps it from starting.
    """
    from inceptionctl.distributed.milestones import passed
    from inceptionctl.distributed.signals import RankSignals, stoppable
    from inceptionctl.distributed.world import refuse_own_ranks, waits_in_a_shell, world_from_environment

    passed("begins")
    world = world_from_environment()
    refuse_own_ranks(world, request.gpus, request.cpu_ranks)
    waiting = waits_in_a_shell(world)
    if waiting:
        console.warn(*waiting)
    signals = RankSignals(speaks=world.rank == 0) if world else None  # before anything that takes time
    # A store that has gone with rank 0 is worth a stack trace in C++ to torch, and a worded error here. It reads this when imported.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    recipe = _recipe_of(request)
    if world and signals:
        from inceptionctl.train.rank import run_rank

        passed("imported")
        return run_rank(world, recipe, request.output, request.resume, signals)
    with stoppable():
        return _train_on_this_machine(request, recipe)


def plan(request: TrainRequest, *, data: bool = True) -> console.JsonObject:
    """What a training would be, as JSON values; nothing is written. Raises all that keeps it from being trained here.

    Without `data` the data set is not looked at.
    """
    from inceptionctl.distributed.local import choose_ranks
    from inceptionctl.distributed.world import world_from_environment
    from inceptionctl.stages.checks import assume_classes, check_recipe
    from inceptionctl.train.start import begins_anew

    recipe = _recipe_of(request)
    begins = begins_anew(recipe, request.output, request.resume)
    [images] = check_recipe(request.recipe, recipe, request.settings, data=data, begins=begins)
    recipe = recipe.with_classes(len(images[0].classes)) if images else assume_classes(recipe)
    from inceptionctl.train.dry_run import plan_training  # torch, which takes seconds: only for what can be trained

    world = world_from_environment()
    ranks = request.gpus or request.cpu_ranks or (world.size if world else None)
    return plan_training(recipe, ranks or choose_ranks(None, None).size, images, data=data)


def _recipe_of(request: TrainRequest) -> Recipe:
    """With what the weights of model.init_from expect, where there are any."""
    from inceptionctl.recipe import load_recipe
    from inceptionctl.stages.sources import fetch_first_weights
    from inceptionctl.train.inheritance import inherit
    from inceptionctl.train.start import begins_anew

    recipe, output, resume = load_recipe(request.recipe, request.settings), request.output, request.resume
    if begins_anew(recipe, output, resume):
        fetch_first_weights(recipe)
    return inherit(recipe, Path(resume) if output is None and resume not in ("auto", "never") else output)


def _train_on_this_machine(request: TrainRequest, recipe: Recipe) -> Run:
    from inceptionctl.train.lock import check_free
    from inceptionctl.train.start import check_start, decide_start

    ranks = _ranks_of(request, recipe)
    images = _checked(request, recipe, ranks)
    recipe = recipe.with_classes(len(images[0].classes))
    start = decide_start(recipe, request.output, request.resume)
    if start.finished:
        console.say(f"{start.run.path} is finished: nothing to train")
        console.say("hint: use another --output to train again, or a larger train.epochs to continue this run")
    else:
        if not start.is_new:
            check_free(start.run)
            check_start(start, recipe, *images)
        _launch(request, recipe, ranks, start)
    console.say(f"next: inceptionctl evaluate {start.run.path}")
    return start.run


def _ranks_of(request: TrainRequest, recipe: Recipe) -> LocalRanks:
    from inceptionctl.distributed.local import (
        NO_GPU_IN_SPITE_OF_DRIVER,
        LocalRanks,
        check_port,
        choose_ranks,
        has_driver,
    )

    ranks, batch = choose_ranks(request.gpus, request.cpu_ranks), recipe.train.global_batch_size
    if ranks.on_cpu and request.cpu_ranks is None and has_driver():
        console.warn(NO_GPU_IN_SPITE_OF_DRIVER, "`inceptionctl doctor` says why; --cpu-ranks 1 if that is meant")
    if request.gpus is None and batch % ranks.size:
        fitting = max(size for size in range(1, ranks.size) if batch % size == 0)
        if not ranks.on_cpu:  # nobody named a number: take as many GPUs as can share the batch equally
            console.warn(f"training on {fitting} of {ranks.size} GPUs: a global batch of {batch} has no more equal shares")
            ranks = LocalRanks(ranks.devices[:fitting], on_cpu=False)
    if request.port is not None:
        check_port(request.port)
    return ranks


def _checked(request: TrainRequest, recipe: Recipe, ranks: LocalRanks) -> Opened:
    from inceptionctl.recipe.ensemble_recipe import place_of
    from inceptionctl.run import Run, is_run
    from inceptionctl.stages.checks import check_inputs
    from inceptionctl.train.start import begins_anew

    # The run directory that was named, if it is there: it tells where it was started from.
    named = next((Run(path) for path in (request.output, Path(request.resume)) if path and is_run(path)), None)
    where: Callable[[str], str | None] = partial(place_of, request.recipe, request.settings)
    begins = begins_anew(recipe, request.output, request.resume)
    return check_inputs(recipe, ranks, request.recipe, where, begins=begins, verified=False, run=named)


def _launch(request: TrainRequest, recipe: Recipe, ranks: LocalRanks, start: Start) -> None:
    """Wait for the ranks. Raises ResumeLater when they were stopped, RanksEndedError when they have ended with an error."""
    from inceptionctl.distributed.local import launch
    from inceptionctl.distributed.milestones import passed
    from inceptionctl.run import discard_unused
    from inceptionctl.train.lock import lock_of
    from inceptionctl.train.start import keeps_recipe

    # The words of the command: the ranks read the recipe again, since no directory holds it yet.
    resume = start.checkpoint if start.checkpoint and not start.checkpoint.is_relative_to(start.run.path) else "auto"
    options = {"output": start.run.path, "resume": resume}
    passed("launches")
    try:
        code = launch(ranks, command_words("train", request.recipe, settings=request.settings, options=options), request.port)
    except ResumeLater as stopped:
        console.say(stopped.message)
        code = stopped.exit_code
    finally:
        console.err.show_cursor()  # a rank that was killed in its live line has left it hidden
    if not code:
        return
    if code == ResumeLater.exit_code or code > 128:  # stopped, in order or at once
        # Stopped before the run had its recipe, only the command's own words give it.
        again = (start.run.recipe_file, ()) if keeps_recipe(start.run, recipe) else (request.recipe, request.settings)
        here = {"output": start.run.path, "gpus": request.gpus, "cpu_ranks": request.cpu_ranks}
        words = command_words("train", again[0], settings=again[1], options=here)
        hint = f"resume with: {shlex.join(['inceptionctl', *words])}"
        if code == ResumeLater.exit_code:
            raise ResumeLater("", hint)  # the ranks have said why
        console.say(hint)
    elif start.is_new and not lock_of(start.run)[0]:  # else another command that began it in the same moment trains in it
        discard_unused(start.run)
    raise RanksEndedError(code)
