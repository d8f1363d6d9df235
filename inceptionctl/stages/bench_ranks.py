"""`inceptionctl bench start` and `allreduce`: how ranks start, and what a sum over them costs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from inceptionctl.console import JsonObject
from inceptionctl.errors import RecipeError
from inceptionctl.stages.bench_io import leave_result, progress_bar, refuse_unwritable, run_in_ranks, with_figures, written
from inceptionctl.stages.checks import check_inputs
from inceptionctl.stages.commands import command_words
from inceptionctl.words import counted


@dataclass(frozen=True)
class BenchStartRequest:
    """The arguments and options of `inceptionctl bench start`."""

    recipe: str = "quickstart"
    """One whose data are here."""
    settings: Sequence[str] = ()
    ranks: Sequence[int] = (1, 2)
    """Numbers of ranks, in turn."""
    on_gpus: bool = False
    repeats: int = 3
    output: Path | None = None


@dataclass(frozen=True)
class BenchAllreduceRequest:
    """The options of `inceptionctl bench allreduce`."""

    gpus: int | None = None
    cpu_ranks: int | None = None
    largest: int = 256
    """Size of the largest sum in MiB."""
    repeats: int = 7
    output: Path | None = None

    @property
    def words(self) -> list[str]:
        """The command of each rank, which leaves `output` to the process that starts it."""
        options = {name: getattr(self, name) for name in ("gpus", "cpu_ranks", "largest", "repeats")}
        return command_words("bench allreduce", options=options)


def start(request: BenchStartRequest) -> JsonObject:
    """Seconds from the start of `inceptionctl train` to the first row of metrics, phase by phase: what `--json` prints.

    Raises RecipeError for a batch that is not divisible by the ranks, DataError for missing images, EnvironmentFault for missing GPUs.
    """
    from inceptionctl.distributed.local import choose_ranks
    from inceptionctl.recipe import load_recipe
    from inceptionctl.recipe.ensemble_recipe import place_of

    settings = [*request.settings, "train.log_every_steps=1"]
    recipe = load_recipe(request.recipe, settings)
    refuse_unwritable(request.output)
    for number in request.ranks:
        here = choose_ranks(number if request.on_gpus else None, None if request.on_gpus else number)
        check_inputs(recipe, here, request.recipe, partial(place_of, request.recipe, settings), begins=True)

    from inceptionctl.bench.machine_facts import facts
    from inceptionctl.bench.start_phases import bench_start

    about = facts(("inceptionctl", "torch", "deepspeed", "nvidia-dali-cuda130"))
    option = "--gpus" if request.on_gpus else "--cpu-ranks"
    named = {counted(number, "rank"): (option, str(number)) for number in request.ranks}
    arguments = command_words(request.recipe, settings=settings)
    with progress_bar("measuring") as progress:
        figures = bench_start(arguments, named, recipe.train.global_batch_size, request.repeats, progress)
    measured = {"recipe": request.recipe, "settings": list(request.settings)}
    counts = {"ranks": list(request.ranks), "gpus": request.on_gpus}
    return written(with_figures({"bench": "start", **measured, **counts, **about}, figures), request.output)


def allreduce(request: BenchAllreduceRequest) -> JsonObject | None:
    """Seconds and bandwidth of sums over ranks (gloo between CPU ranks, NCCL between GPUs): what `--json` prints.

    `alpha_s` and `bytes_per_s` are the model seconds = alpha + bytes / rate; `bytes_per_s` is null where larger sums take no longer.
    None in a rank that is not the one to print, as of `bench step`. Raises RecipeError for one rank alone, RanksEndedError when a rank fails,
    and ResumeLater when a signal came.
    """
    from inceptionctl.distributed.signals import stoppable
    from inceptionctl.distributed.world import refuse_own_ranks, world_from_environment

    world = world_from_environment()
    refuse_own_ranks(world, request.gpus, request.cpu_ranks)
    refuse_unwritable(request.output)
    if (world.size if world else request.gpus or request.cpu_ranks or 1) < 2:
        raise RecipeError("one rank has nobody to sum with", "for example --cpu-ranks 2, or --gpus 8")
    with stoppable("within the measurement"):
        if not world:
            return run_in_ranks(request.words, request.gpus, request.cpu_ranks, request.output)
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        from inceptionctl.bench.allreduce import bench_allreduce, sizes_up_to
        from inceptionctl.bench.machine_facts import facts
        from inceptionctl.distributed.session import session

        about = facts(("inceptionctl", "torch", "deepspeed"))
        with session(world) as joined:
            figures, found = bench_allreduce(world, joined.device, sizes_up_to(request.largest << 20), request.repeats)
    backend = "gloo" if joined.device.type == "cpu" else "nccl"
    result = with_figures({"bench": "allreduce", "backend": backend, **about, **found}, figures)
    if world.rank or leave_result(result):
        return None
    return written(result, request.output)
