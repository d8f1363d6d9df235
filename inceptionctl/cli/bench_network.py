"""`inceptionctl bench evaluate`, `step` and `train`: what networks cost on this machine."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from inceptionctl import console
from inceptionctl.cli.measured import (
    CpuRanks,
    Gpus,
    Output,
    Repeats,
    progress_of,
    refuse_as_trace,
    refuse_unwritable,
    start_ranks,
    tell,
    tell_of_profile,
    tell_of_timm,
    tell_of_waits,
)
from inceptionctl.cli.options import ImagesAsMicroBatch, Json, MicroBatchOption, ProtocolName, Settings, whole_numbers
from inceptionctl.errors import DataError, RecipeError
from inceptionctl.stages.checks import check_steps
from inceptionctl.stages.sources import refuse_missing_network

if TYPE_CHECKING:
    from inceptionctl.data.imageset import ImageSet
    from inceptionctl.distributed.world import World
    from inceptionctl.recipe.schema import Recipe

PrecisionOption = Annotated[
    Literal["auto", "fp32", "bf16"], typer.Option(help="`auto` is bf16 where the processor computes it natively.")
]


def evaluate(
    source: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE|RUN", help="A recipe (its network with random weights), or a run directory or its name under runs/."
        ),
    ] = "inception_v4",
    settings: Settings = None,
    folder: Annotated[
        Path | None,
        typer.Option("--data", metavar="FOLDER", help="Photographs to take, from anywhere below; else the validation images."),
    ] = None,
    protocol: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="As of `evaluate`; may be repeated; 144crop by default.")
    ] = None,
    images: Annotated[
        int, typer.Option(min=1, help="Pictures to evaluate of each kind, square and other; --batch-sizes are crops.")
    ] = 16,
    batch_sizes: Annotated[
        str, typer.Option(metavar="N,...", help="Crops at once; each way of evaluating takes the best of these for itself.")
    ] = "4,8,16",
    precision: PrecisionOption = "auto",
    repeats: Repeats = 3,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Seconds an image of a protocol, beside as many independent single-crop passes as it has crops.

    Each of these passes reads, decodes, resizes, cuts and asks for one crop of all pictures. Square pictures and others are told apart:
    of a square one more crops are equal, and those are computed once.
    """
    from inceptionctl.recipe import bundled_recipes, load_recipe
    from inceptionctl.run import find_run

    run = Path(source) if source in bundled_recipes() else find_run(Path(source))
    is_run = run.is_dir()
    if is_run and settings:
        raise RecipeError("--set changes a recipe, and a run keeps its own", "name the recipe, or leave --set out")
    if is_run:
        refuse_missing_network(Path(source))
    loaded = None if is_run else load_recipe(source, settings or ())
    sizes, protocols = whole_numbers("--batch-sizes", batch_sizes, "4,8,16"), _protocols(protocol or ["144crop"])
    refuse_unwritable(output)

    from inceptionctl.bench.evaluate import bench_evaluate, pictures_by_kind
    from inceptionctl.bench.machine import facts
    from inceptionctl.evaluate.machine import claim_machine, loading_of
    from inceptionctl.evaluate.subject import subject_of, untrained_subject
    from inceptionctl.evaluate.trained import load_trained
    from inceptionctl.train.precision import resolve_precision

    machine = claim_machine()
    computed = resolve_precision(precision, machine.device)
    if loaded:
        recipe, subject = loaded, untrained_subject(loaded, computed, machine.device)
    else:
        trained = load_trained(run, "ema", machine.device)
        recipe, subject = trained.recipe, subject_of(trained, computed, machine.device)
    kinds, left_out = pictures_by_kind(_pictures(folder, recipe, "val"), images)
    about = facts(("inceptionctl", "torch", "nvidia-dali-cuda130", "numpy", "pillow"))
    with progress_of("measuring") as progress:
        figures, chosen, difference = bench_evaluate(
            subject,
            kinds,
            protocols,
            batch_sizes=sizes,
            repeats=repeats,
            loading=loading_of(machine, recipe.data, machine.device),
            progress=progress,
        )
    measured = {"source": source, "settings": settings or [], "network": subject.network}
    counts = {
        "precision": subject.precision,
        "tf32": subject.tf32,
        "device": subject.device.type,
        "images": {kind: len(found) for kind, found in kinds.items()},
        "batch_sizes": chosen,
    }
    result = {"bench": "evaluate", **about, **measured, **counts, "largest_difference": difference, "left_out": left_out}
    tell(result, figures, output, as_json)
    if not as_json:
        best = ", ".join(f"{way}: {size}" for way, size in chosen.items())
        console.say(f"best batch sizes: {best}; the two ways' probabilities differ by at most {difference:.1e}")


def step(
    recipe: Annotated[str, typer.Argument(help="Bundled name or path of a recipe.")] = "inception_v4",
    settings: Settings = None,
    micro_batch_size: MicroBatchOption = None,
    images: ImagesAsMicroBatch = None,
    folder: Annotated[
        Path | None, typer.Option("--data", metavar="FOLDER", help="Photographs for turns with live data besides.")
    ] = None,
    gpus: Gpus = None,
    cpu_ranks: CpuRanks = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of a turn: 1 on a CPU and 10 on GPUs by default.")] = None,
    repeats: Repeats = 5,
    ways: Annotated[
        str | None,
        typer.Option(
            metavar="WAY,...",
            help="What takes turns with the loop and the bare loop: none, blocks, network, blocks/max-autotune, network/max-autotune,"
            " network/cuda-graphs (the bare loop compiled so), timm, timm-compiled, and on one rank parts, formats, products;"
            " bare for nothing else. By default parts,formats,products on one rank.",
        ),
    ] = None,
    profile: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Run some steps under torch.profiler: a table of costs, and a Chrome trace in FILE (.json, .json.gz).",
        ),
    ] = None,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """A step of the real training loop on random images beside a bare torch loop of the same network, torch DDP on several ranks.

    Ranks are started as `train` starts them. No validation and no saves; a row of metrics after every train.log_every_steps.
    """
    from inceptionctl.bench.ways import read_ways

    asked = read_ways(ways, gpus or cpu_ranks or 1)
    loaded = _for_steps(recipe, settings, micro_batch_size or images, gpus, cpu_ranks)
    refuse_unwritable(output)
    refuse_as_trace(profile)
    measured = {"bench": "step", "recipe": recipe, "settings": settings or []}
    _measure_steps(
        loaded,
        measured,
        folder,
        folder is not None,
        gpus,
        cpu_ranks,
        steps,
        repeats,
        asked,
        output,
        as_json,
        trace=profile,
    )


def train(
    recipe: Annotated[str, typer.Argument(help="Bundled name or path of a recipe.")] = "inception_v4",
    settings: Settings = None,
    micro_batch_size: MicroBatchOption = None,
    images: ImagesAsMicroBatch = None,
    folder: Annotated[
        Path | None,
        typer.Option("--data", metavar="FOLDER", help="Photographs to take, from anywhere below; else the recipe's."),
    ] = None,
    gpus: Gpus = None,
    cpu_ranks: CpuRanks = None,
    steps: Annotated[
        int, typer.Option(min=1, help="Steps of a turn; several, since some batches are ready when it begins.")
    ] = 8,
    repeats: Repeats = 5,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """The real training loop with live data beside itself on random images, and beside a bare torch loop: what data costs it."""
    loaded = _for_steps(recipe, settings, micro_batch_size or images, gpus, cpu_ranks)
    refuse_unwritable(output)
    measured = {"bench": "train", "recipe": recipe, "settings": settings or []}
    _measure_steps(loaded, measured, folder, True, gpus, cpu_ranks, steps, repeats, ("bare",), output, as_json)


def _for_steps(
    name: str, settings: list[str] | None, micro_batch_size: int | None, gpus: int | None, cpu_ranks: int | None
) -> Recipe:
    """The recipe with nothing in it but steps of one micro batch a rank, at a rate that leaves the weights alone."""
    from inceptionctl.recipe import load_recipe

    size = micro_batch_size or load_recipe(name, settings or ()).train.micro_batch_size
    ranks = gpus or cpu_ranks or 1
    never = [f"{key}=null" for key in ("evaluate.every_epochs", "checkpoint.every_epochs", "checkpoint.every_steps")]
    batch = [f"train.micro_batch_size={size}", f"train.global_batch_size={size * ranks}", "schedule.base_lr=1e-6"]
    loaded = load_recipe(name, [*(settings or ()), *batch, *never])
    check_steps(loaded, name, settings or (), ranks)
    return loaded


def _measure_steps(
    recipe: Recipe,
    measured: dict[str, Any],
    folder: Path | None,
    live: bool,
    gpus: int | None,
    cpu_ranks: int | None,
    steps: int | None,
    repeats: int,
    ways: tuple[str, ...],
    output: Path | None,
    as_json: bool,
    *,
    trace: Path | None = None,
) -> None:
    import os
    import tempfile

    from inceptionctl.bench.ways import has_timm
    from inceptionctl.distributed.signals import RankSignals, stoppable
    from inceptionctl.distributed.world import refuse_own_ranks, world_from_environment

    # What the profiler's library says of itself while it works.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    timm = has_timm(ways)
    if timm:
        from inceptionctl.bench.timm_step import check_comparable

        check_comparable(recipe)
    world = world_from_environment()
    refuse_own_ranks(world, gpus, cpu_ranks)
    signals = RankSignals(speaks=world.rank == 0) if world else None
    found = _count(folder, recipe) if live else None
    if found is not None and found < recipe.train.global_batch_size:
        raise DataError(
            f"{folder or recipe.data.root_path} has {found} images, a step takes {recipe.train.global_batch_size}",
            "a smaller --micro-batch-size, or more photographs",
        )
    if not world or not signals:
        with stoppable("within the measurement"):
            start_ranks(gpus, cpu_ranks)
        return
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from inceptionctl.bench.machine import facts
    from inceptionctl.bench.profile import STEPS, StepProfile
    from inceptionctl.bench.step import bench_step
    from inceptionctl.distributed.session import session

    about = facts(("inceptionctl", "torch", "deepspeed", "nvidia-dali-cuda130", *(("timm",) if timm else ())))
    with (
        session(world, recipe.train.collective_timeout_seconds) as joined,
        tempfile.TemporaryDirectory(prefix="inceptionctl-bench-") as made,
        _rounds(world) as progress,
    ):
        profile = StepProfile(STEPS[joined.device.type]) if trace else None
        signals.training_begins()
        figures, kinds = bench_step(
            joined,
            recipe,
            Path(made, "run"),
            signals,
            live=_pictures(folder, recipe, "train") if live else None,
            steps=steps or (1 if joined.device.type == "cpu" else 10),
            repeats=repeats,
            ways=ways,
            profile=profile,
            progress=progress,
        )
    if world.rank == 0:
        tell({**measured, **about, **kinds}, figures, output, as_json)
        if timm and not as_json:
            tell_of_timm(kinds["timm"])
        if "host_waits" in kinds and not as_json:
            tell_of_waits(kinds["host_waits"])
        if profile and trace:
            if not as_json:
                tell_of_profile(profile)
            profile.write(trace)
            console.say(f"{trace}: open it in https://ui.perfetto.dev or chrome://tracing")


def _rounds(world: World) -> AbstractContextManager[Callable[[str, int, int], None]]:
    """The bar of the rounds, which rank 0 alone shows."""
    return progress_of("rounds") if world.rank == 0 else nullcontext(lambda name, done, total: None)


def _protocols(names: list[str]) -> list[ProtocolName]:
    known: tuple[ProtocolName, ...] = get_args(ProtocolName)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise RecipeError(f"no protocol {unknown[0]}", f"one of {', '.join(known)}")
    return [name for name in known if name in names]


def _count(folder: Path | None, recipe: Recipe) -> int:
    """Images, or what is wrong with them, before anything heavy is imported."""
    from inceptionctl.bench.photographs import images_below

    return len(images_below(folder)) if folder else len(_split(recipe, "train"))


def _pictures(folder: Path | None, recipe: Recipe, split: Literal["train", "val"]) -> ImageSet:
    from inceptionctl.bench.photographs import images_below
    from inceptionctl.evaluate.images import folder_of

    return folder_of(images_below(folder)) if folder else _split(recipe, split)


def _split(recipe: Recipe, split: Literal["train", "val"]) -> ImageSet:
    from inceptionctl.data.dataset import open_split

    root = recipe.data.root_path
    return open_split(root, split, **recipe.data.sources(root))
