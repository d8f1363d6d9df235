"""`inceptionctl train`: start the ranks of this machine, or be one rank of a job."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inceptionctl import console
from inceptionctl.cli.answering import warn_of_shell
from inceptionctl.cli.checks import check_inputs, check_recipe
from inceptionctl.cli.options import Json, NoData, Settings
from inceptionctl.cli.runs import summary_of
from inceptionctl.errors import RecipeError

if TYPE_CHECKING:
    from inceptionctl.launch.local import LocalRanks
    from inceptionctl.recipe.schema import Recipe
    from inceptionctl.run import Run
    from inceptionctl.train.start import Start


def train(
    recipe: Annotated[str, typer.Argument(help="Bundled name or path of a recipe.")],
    settings: Settings = None,
    gpus: Annotated[int | None, typer.Option(min=1, help="GPUs of this machine to train on; all of them by default.")] = None,
    cpu_ranks: Annotated[
        int | None, typer.Option(min=1, help="Train on the CPU with this many ranks; 1 is the fastest.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Run directory; runs/DATE_MODEL_FINGERPRINT by default.")] = None,
    resume: Annotated[
        str,
        typer.Option(
            metavar="auto|never|PATH", help="Go on where this recipe's newest run stopped, start anew, or go on from PATH."
        ),
    ] = "auto",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="TCP port of the ranks of this machine; a free one by default.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be trained, and stop.")] = False,
    no_data: NoData = False,
    as_json: Json = False,
) -> None:
    """Train a recipe, or go on with its run.

    In an ordinary shell it starts one rank a GPU of this machine. Under torchrun or srun (RANK or SLURM_* set) it is one rank of the job.
    The same command goes on where it stopped, at the very next sample.
    """
    import os

    from inceptionctl.launch.milestones import passed
    from inceptionctl.launch.signals import RankSignals, stoppable
    from inceptionctl.launch.world import refuse_own_ranks, world_from_environment

    if no_data and not dry_run:
        raise RecipeError("--no-data: a training needs its data set", "give it with --dry-run, or leave it out")
    passed("begins")
    world = world_from_environment()
    if not dry_run:
        refuse_own_ranks(world, gpus, cpu_ranks)
        warn_of_shell(world)
    signals = RankSignals(speaks=world.rank == 0) if world and not dry_run else None  # before anything that takes time
    # A store that has gone with rank 0 is worth a stack trace in C++ to torch, and a worded error here. It reads this when imported.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from inceptionctl.recipe import load_recipe

    loaded = _inheriting(load_recipe(recipe, settings or ()), output, resume)
    if dry_run:
        from inceptionctl.train.start import begins_anew

        check_recipe(recipe, loaded, settings or (), data=not no_data, begins=begins_anew(loaded, output, resume))
        _print_plan(recipe, loaded, gpus or cpu_ranks or (world.size if world else None), as_json, data=not no_data)
    elif world and signals:
        from inceptionctl.train.rank import run_rank

        passed("imported")
        run = run_rank(world, loaded, output, resume, signals)
        if as_json and world.rank == 0:
            console.print_json(summary_of(run))
    else:
        with stoppable():
            run = _start_ranks(recipe, settings or (), loaded, gpus, cpu_ranks, output, resume, port)
        if as_json:
            console.print_json(summary_of(run))


def _inheriting(recipe: Recipe, output: Path | None, resume: str) -> Recipe:
    """With what the weights of model.init_from expect, where there are any."""
    from inceptionctl.train.inheritance import inherit

    return inherit(recipe, Path(resume) if output is None and resume not in ("auto", "never") else output)


def _start_ranks(
    name: str,
    settings: Sequence[str],
    recipe: Recipe,
    gpus: int | None,
    cpu_ranks: int | None,
    output: Path | None,
    resume: str,
    port: int | None,
) -> Run:
    from inceptionctl.launch.local import (
        NO_GPU_IN_SPITE_OF_DRIVER,
        LocalRanks,
        check_port,
        choose_ranks,
        has_driver,
        launch,
    )
    from inceptionctl.recipe.places import place_of
    from inceptionctl.run import discard_unused
    from inceptionctl.train.lock import check_free
    from inceptionctl.train.start import begins_anew, check_start, decide_start

    ranks = choose_ranks(gpus, cpu_ranks)
    if ranks.on_cpu and cpu_ranks is None and has_driver():
        console.warn(NO_GPU_IN_SPITE_OF_DRIVER, "`inceptionctl doctor` says why; --cpu-ranks 1 if that is meant")
    if gpus is None and recipe.train.global_batch_size % ranks.size:
        fitting = max(size for size in range(1, ranks.size) if recipe.train.global_batch_size % size == 0)
        if not ranks.on_cpu:  # nobody named a number: take as many GPUs as can share the batch equally
            console.warn(
                f"training on {fitting} of {ranks.size} GPUs: a global batch of {recipe.train.global_batch_size} has no more equal shares"
            )
            ranks = LocalRanks(ranks.devices[:fitting], on_cpu=False)
    if port is not None:
        check_port(port)
    where, begins = partial(place_of, name, settings), begins_anew(recipe, output, resume)
    images = check_inputs(recipe, ranks, name, where, begins=begins, run=_existing_run(output, resume))
    start = decide_start(recipe, output, resume)
    if start.finished:
        console.say(f"{start.run.path} is finished: nothing to train")
        console.say("hint: --resume never trains anew; a larger train.epochs goes on in it")
    else:
        if not start.is_new:
            check_free(start.run)
            check_start(start, recipe, *images)
        words = [] if gpus is None else ["--gpus", str(gpus)]
        words += [] if cpu_ranks is None else ["--cpu-ranks", str(cpu_ranks)]
        # The words of the command: the ranks read the recipe again, since no directory holds it yet.
        told = [name, *(word for setting in settings for word in ("--set", setting))]
        code = _run(launch, ranks, start, port, told, recipe, words)
        if code:
            if start.is_new and not _may_go_on(code):
                discard_unused(start.run)
            raise typer.Exit(code)
    console.say(f"next: inceptionctl evaluate {start.run.path}")
    return start.run


def _existing_run(output: Path | None, resume: str) -> Run | None:
    """The run directory that was named, if it is there: it tells where it was started from."""
    from inceptionctl.run import Run, is_run

    return next((Run(path) for path in (output, Path(resume)) if path and is_run(path)), None)


def _run(
    launch: Callable[[LocalRanks, list[str], int | None], int],
    ranks: LocalRanks,
    start: Start,
    port: int | None,
    told: list[str],
    recipe: Recipe,
    words: list[str],
) -> int:
    import shlex

    from inceptionctl.errors import ResumeLater
    from inceptionctl.launch.milestones import passed
    from inceptionctl.train.start import keeps_recipe

    where = ["--output", str(start.run.path), "--resume", str(start.checkpoint or "auto")]
    if start.checkpoint and start.checkpoint.is_relative_to(start.run.path):
        where[-1] = "auto"
    passed("launches")
    try:
        code = launch(ranks, ["train", *told, *where], port)
    except ResumeLater as stopped:
        console.say(stopped.message)
        code = stopped.exit_code
    finally:
        console.err.show_cursor()  # a rank that was killed in its live line has left it hidden
    if _may_go_on(code):
        # Stopped before it was kept, the recipe is known by the words alone.
        told = [str(start.run.recipe_file)] if keeps_recipe(start.run, recipe) else told
        again = ["inceptionctl", "train", *told, "--output", str(start.run.path), *words]
        go_on = f"go on with: {shlex.join(again)}"
        if code == ResumeLater.exit_code:
            raise ResumeLater("", go_on)  # why, the ranks have said
        console.say(go_on)
    return code


def _may_go_on(code: int) -> bool:
    """Whether a training that has ended with this code was stopped, in order or at once."""
    from inceptionctl.errors import ResumeLater

    return code == ResumeLater.exit_code or code > 128


def _print_plan(name: str, recipe: Recipe, ranks: int | None, as_json: bool, *, data: bool) -> None:
    from inceptionctl.launch.local import choose_ranks
    from inceptionctl.train.plan import plan_training

    plan = plan_training(recipe, ranks or choose_ranks(None, None).size, data=data)
    for warning in plan["warnings"]:
        console.warn(warning)
    if as_json:
        console.print_json(plan)
        return
    # disk_needed says it in words.
    shown = [
        (key.replace("_", " "), _shown(value)) for key, value in plan.items() if key not in ("disk_needed_bytes", "warnings")
    ]
    console.print_pairs(f"Plan of {name}", shown)


def _shown(value: object) -> object:
    if isinstance(value, dict):
        return console.settings(value)
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) else "unknown" if value is None else value
