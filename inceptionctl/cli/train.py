"""`inceptionctl train`: start the ranks of this machine, or be one rank of a job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inceptionctl import console
from inceptionctl.cli.options import Json, Settings

if TYPE_CHECKING:
    from inceptionctl.launch.local import LocalRanks
    from inceptionctl.recipe.schema import Recipe
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
    as_json: Json = False,
) -> None:
    """Train a recipe, or go on with its run.

    In an ordinary shell it starts one rank a GPU of this machine. Under torchrun or srun (RANK or SLURM_* set) it is one rank of the job.
    The same command goes on where it stopped, at the very next sample.
    """
    import os

    from inceptionctl.launch.milestones import passed
    from inceptionctl.launch.signals import RankSignals, stoppable
    from inceptionctl.launch.world import world_from_environment

    passed("begins")
    world = world_from_environment()
    signals = RankSignals(speaks=world.rank == 0) if world and not dry_run else None  # before anything that takes time
    # A store that has gone with rank 0 is worth a stack trace in C++ to torch, and a worded error here. It reads this when imported.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from inceptionctl.recipe import load_recipe

    loaded = load_recipe(recipe, settings or ())
    if dry_run:
        _print_plan(recipe, loaded, gpus or cpu_ranks or (world.size if world else None), as_json)
    elif world and signals:
        from inceptionctl.train.rank import run_rank

        passed("imported")
        run_rank(world, loaded, output, resume, signals)
    else:
        with stoppable():
            _start_ranks(loaded, gpus, cpu_ranks, output, resume, port)


def _start_ranks(
    recipe: Recipe, gpus: int | None, cpu_ranks: int | None, output: Path | None, resume: str, port: int | None
) -> None:
    from inceptionctl.launch.local import (
        NO_GPU_IN_SPITE_OF_DRIVER,
        LocalRanks,
        check_port,
        choose_ranks,
        has_driver,
        launch,
    )
    from inceptionctl.train.start import decide_start

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
    check_inputs(recipe, ranks)
    start = decide_start(recipe, output, resume)
    if start.finished:
        console.say(f"{start.run.path} is finished: nothing to train")
        console.say("hint: --resume never trains anew; a larger train.epochs goes on in it")
    else:
        words = [] if gpus is None else ["--gpus", str(gpus)]
        words += [] if cpu_ranks is None else ["--cpu-ranks", str(cpu_ranks)]
        _run(launch, ranks, start, port, words)
    console.say(f"next: inceptionctl evaluate {start.run.path}")


def check_inputs(recipe: Recipe, ranks: LocalRanks) -> None:
    """Find what is wrong before processes are started and a run directory is made."""
    from inceptionctl.errors import EnvironmentFault
    from inceptionctl.train.batch import plan_batch
    from inceptionctl.train.images import open_images

    batch = plan_batch(recipe.train.global_batch_size, ranks.size, recipe.train.micro_batch_size)
    if batch.micro_batch_size == 1:  # torch, which this imports, takes seconds
        from inceptionctl.train.batch_norm import check_batch_norm

        check_batch_norm(recipe, batch)
    if recipe.data.decodes_on_gpu and ranks.on_cpu:
        raise EnvironmentFault(f"data.decode is `{recipe.data.decode}`, but there is no GPU", "set data.decode to auto or cpu")
    open_images(recipe)


def _run(
    launch: Callable[[LocalRanks, list[str], int | None], int],
    ranks: LocalRanks,
    start: Start,
    port: int | None,
    words: list[str],
) -> None:
    import shlex

    from inceptionctl.errors import ResumeLater
    from inceptionctl.launch.milestones import passed

    where = [str(start.run.recipe_file), "--output", str(start.run.path), "--resume", str(start.checkpoint or "auto")]
    if start.checkpoint and start.checkpoint.is_relative_to(start.run.path):
        where[-1] = "auto"
    passed("launches")
    try:
        code = launch(ranks, ["train", *where], port)
    except ResumeLater as stopped:
        console.say(stopped.message)
        code = stopped.exit_code
    finally:
        console.err.show_cursor()  # a rank that was killed in its live line has left it hidden
    if code == ResumeLater.exit_code or code > 128:
        again = ["inceptionctl", "train", str(start.run.recipe_file), "--output", str(start.run.path), *words]
        console.say(f"go on with: {shlex.join(again)}")
    if code:
        raise typer.Exit(code)


def _print_plan(name: str, recipe: Recipe, ranks: int | None, as_json: bool) -> None:
    from inceptionctl.launch.local import choose_ranks
    from inceptionctl.train.plan import plan_training

    plan = plan_training(recipe, ranks or choose_ranks(None, None).size)
    for warning in plan["warnings"]:
        console.warn(warning)
    if as_json:
        console.print_json(plan)
        return
    console.print_pairs(
        f"Plan of {name}", [(key.replace("_", " "), _shown(value)) for key, value in plan.items() if key != "warnings"]
    )


def _shown(value: object) -> object:
    import json

    return json.dumps(value) if isinstance(value, dict) else f"{value:,}" if isinstance(value, int) else value
