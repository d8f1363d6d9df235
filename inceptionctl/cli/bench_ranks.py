"""`inceptionctl bench start`, `allreduce` and `compare`: how ranks begin, what they pay for each other, and two results beside each other."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inceptionctl import console
from inceptionctl.cli.measured import CpuRanks, Gpus, Output, Repeats, progress_of, refuse_unwritable, start_ranks, tell
from inceptionctl.cli.options import Json, Settings, renamed, whole_numbers
from inceptionctl.errors import RecipeError
from inceptionctl.stages.checks import check_inputs
from inceptionctl.words import counted

if TYPE_CHECKING:
    from inceptionctl.bench.compare import Pair


def start(
    recipe: Annotated[str, typer.Argument(help="Bundled name or path of a recipe whose data are here.")] = "quickstart",
    settings: Settings = None,
    ranks: Annotated[str, typer.Option(metavar="N,...", help="Numbers of ranks, in turn.")] = "1,2",
    on_gpus: Annotated[bool, typer.Option("--on-gpus", help="Ranks on GPUs instead of the CPU.")] = False,
    gpus: Annotated[bool | None, typer.Option("--gpus", hidden=True)] = None,
    repeats: Repeats = 3,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Seconds from typing `inceptionctl train` to the first row of metrics, phase by phase, and of `inceptionctl --help`.

    The training is killed when the row is there; what it wrote lies in a temporary folder and goes too.
    """
    from inceptionctl.distributed.local import choose_ranks
    from inceptionctl.recipe import load_recipe
    from inceptionctl.recipe.places import place_of

    numbers = whole_numbers("--ranks", ranks, "1,2")
    on_gpus = renamed("--gpus", "--on-gpus", gpus, on_gpus)
    mine = [*(settings or ()), "train.log_every_steps=1"]
    loaded = load_recipe(recipe, mine)
    refuse_unwritable(output)
    option = "--gpus" if on_gpus else "--cpu-ranks"
    for number in numbers:
        here = choose_ranks(number if on_gpus else None, None if on_gpus else number)
        check_inputs(loaded, here, recipe, partial(place_of, recipe, mine), begins=True)

    from inceptionctl.bench.machine import facts
    from inceptionctl.bench.start import bench_start

    about = facts(("inceptionctl", "torch", "deepspeed", "nvidia-dali-cuda130"))
    named = {counted(number, "rank"): (option, str(number)) for number in numbers}
    arguments = [recipe, *(word for setting in mine for word in ("--set", setting))]
    with progress_of("measuring") as progress:
        figures = bench_start(arguments, named, loaded.train.global_batch_size, repeats, progress)
    measured = {"bench": "start", "recipe": recipe, "settings": settings or [], "ranks": numbers, "gpus": on_gpus}
    tell({**measured, **about}, figures, output, as_json)


def allreduce(
    gpus: Gpus = None,
    cpu_ranks: CpuRanks = None,
    largest: Annotated[int, typer.Option("--largest", metavar="MiB", min=1, help="Size of the largest sum.")] = 256,
    repeats: Repeats = 7,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Seconds and bandwidth of sums over ranks (gloo between CPU ranks, NCCL between GPUs) of 4 KiB to 256 MiB.

    `alpha_s` and `bytes_per_s` in the JSON are the model seconds = alpha + bytes / rate. Under srun or torchrun it is one rank of the job.
    """
    import os

    from inceptionctl.distributed.signals import stoppable
    from inceptionctl.distributed.world import refuse_own_ranks, world_from_environment

    world = world_from_environment()
    refuse_own_ranks(world, gpus, cpu_ranks)
    refuse_unwritable(output)
    if (world.size if world else gpus or cpu_ranks or 1) < 2:
        raise RecipeError("one rank has nobody to sum with", "for example --cpu-ranks 2, or --gpus 8")
    with stoppable("within the measurement"):
        if not world:
            start_ranks(gpus, cpu_ranks)
            return
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        from inceptionctl.bench.allreduce import bench_allreduce, sizes_up_to
        from inceptionctl.bench.machine import facts
        from inceptionctl.distributed.session import session

        about = facts(("inceptionctl", "torch", "deepspeed"))
        with session(world) as joined:
            figures, found = bench_allreduce(world, joined.device, sizes_up_to(largest << 20), repeats)
    if world.rank == 0:
        backend = "gloo" if joined.device.type == "cpu" else "nccl"
        tell({"bench": "allreduce", "backend": backend, **about, **found}, figures, output, as_json)
        if not as_json:
            _say_model(found["alpha_s"], found["bytes_per_s"])


def _say_model(alpha: float, rate: float | None) -> None:
    if rate is None:
        console.say(
            "sums of these sizes take no longer for more bytes, so no rate can be told: take a larger --largest, or more --repeats"
        )
    else:
        console.say(f"a sum takes {1e6 * alpha:.0f} microseconds and one second for each {console.size(rate)}")


def compare(
    one: Annotated[Path, typer.Argument(metavar="A.json", help="What a bench command wrote.")],
    other: Annotated[Path, typer.Argument(metavar="B.json", help="The same command's result of another time or machine.")],
    as_json: Json = False,
) -> None:
    """Two results of one bench side by side: medians, their ratio, and whether the ranges overlap."""
    from inceptionctl.bench.compare import compare, read_result

    first, second = read_result(one), read_result(other)
    pairs, differ, alone = compare(first, second)
    if as_json:
        found = {"a": str(one), "b": str(other), "differ": differ, "alone": alone}
        console.print_json({"bench": first["bench"], **found, "figures": [pair.to_json() for pair in pairs]})
        return
    columns = ("what", "unit", "A", "B", "B / A", "ranges")
    console.print_table(f"bench {first['bench']}", columns, map(_row, pairs), right=("A", "B", "B / A"))
    for line in differ:
        console.say(f"differs: {line}")
    for name in alone:
        console.say(f"in one alone: {name}")


def _row(pair: Pair) -> tuple[str, ...]:
    from inceptionctl.bench.measuring import shown

    ratio = "" if pair.ratio is None else f"{pair.ratio:.3f}"
    apart = "overlap" if pair.overlaps else "apart"
    return pair.name, pair.unit, shown(pair.one["median"]), shown(pair.other["median"]), ratio, apart
