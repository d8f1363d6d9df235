"""`inceptionctl bench step` and `train`: the real training loop beside a bare torch loop of the same network."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from inceptionctl.console import JsonObject
from inceptionctl.errors import DataError, EnvironmentFault, RecipeError
from inceptionctl.stages.bench_io import (
    images_for,
    leave_result,
    progress_bar,
    refuse_unwritable,
    run_in_ranks,
    with_figures,
    written,
)
from inceptionctl.stages.checks import assume_classes, check_steps
from inceptionctl.stages.commands import command_words

if TYPE_CHECKING:
    from inceptionctl.bench.profile import StepProfile
    from inceptionctl.distributed.signals import RankSignals
    from inceptionctl.distributed.world import World
    from inceptionctl.recipe.schema import Recipe


@dataclass(frozen=True)
class _LoopRequest:
    """What both benches of the training loop are asked."""

    recipe: str = "inception_v4"
    settings: Sequence[str] = ()
    micro_batch_size: int | None = None
    """Images of a rank's step; the recipe's train.micro_batch_size by default."""
    data: Path | None = None
    """Photographs, from anywhere below."""
    gpus: int | None = None
    cpu_ranks: int | None = None
    steps: int | None = None
    """Steps of a turn: 1 on a CPU and 10 on GPUs by default."""
    repeats: int = 5
    output: Path | None = None

    @property
    def words(self) -> list[str]:
        """The command of each rank, which leaves `output` to the process that starts it."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        of_ranks = {name: value for name, value in given.items() if name not in ("recipe", "settings", "output")}
        options = {name: tuple(value) if isinstance(value, list) else value for name, value in of_ranks.items()}
        return command_words(f"bench {self.bench}", self.recipe, settings=self.settings, options=options)

    @property
    def bench(self) -> str:
        """The name of its command."""
        return "step" if isinstance(self, BenchStepRequest) else "train"


@dataclass(frozen=True)
class BenchStepRequest(_LoopRequest):
    """The arguments and options of `inceptionctl bench step`; `data` adds turns with live data."""

    ways: Sequence[str] | None = None
    """What else takes turns (bench/ways.py); by default parts, formats and products on one rank."""
    profile: Path | None = None
    """The Chrome trace to write, .json or .json.gz; None measures no profile."""


@dataclass(frozen=True)
class BenchTrainRequest(_LoopRequest):
    """The arguments and options of `inceptionctl bench train`; its data are the recipe's training images without `data`."""

    steps: int = 8


def step(request: BenchStepRequest) -> JsonObject | None:
    """A step of the training loop on random images beside a bare torch loop, torch DDP on several ranks: what `--json` prints.

    Ranks are started as `train` starts them, even one. None in a rank that is not the one to print: under torchrun or srun ranks but 0,
    and every rank that this function has started. Raises RecipeError, DataError for too few images, RanksEndedError when a rank fails, and
    ResumeLater when a signal came.
    """
    from inceptionctl.bench.ways import read_ways

    named = None if request.ways is None else ",".join(request.ways)
    ways = read_ways(named, request.gpus or request.cpu_ranks or 1)
    recipe = _for_steps(request)
    refuse_unwritable(request.output)
    _refuse_as_trace(request.profile)
    return _measure(request, recipe, ways, live=request.data is not None, trace=request.profile)


def train(request: BenchTrainRequest) -> JsonObject | None:
    """The training loop on live data beside itself on random images and a bare torch loop: what `--json` prints. As `step` otherwise."""
    recipe = _for_steps(request)
    refuse_unwritable(request.output)
    return _measure(request, recipe, ("bare",), live=True, trace=None)


def _for_steps(request: _LoopRequest) -> Recipe:
    """The recipe with nothing in it but steps of one micro batch a rank, at a rate that leaves the weights alone."""
    from inceptionctl.recipe import load_recipe

    size = request.micro_batch_size or load_recipe(request.recipe, request.settings).train.micro_batch_size
    ranks = request.gpus or request.cpu_ranks or 1
    keys = ("evaluate.every_epochs", "checkpoint.every_epochs", "checkpoint.every_steps", "model.unfreeze")
    never = [f"{key}=null" for key in keys]
    batch = [f"train.micro_batch_size={size}", f"train.global_batch_size={size * ranks}", "schedule.base_lr=1e-6"]
    recipe = load_recipe(request.recipe, [*request.settings, *batch, *never])
    check_steps(recipe, request.recipe, request.settings, ranks)
    return recipe


def _measure(
    request: _LoopRequest, recipe: Recipe, ways: tuple[str, ...], *, live: bool, trace: Path | None
) -> JsonObject | None:
    """Start the ranks and take their result, or be one of them."""
    from inceptionctl.bench.ways import has_timm
    from inceptionctl.distributed.signals import RankSignals, stoppable
    from inceptionctl.distributed.world import refuse_own_ranks, world_from_environment
    from inceptionctl.train.preflight import with_counted_classes

    # What the profiler's library says of itself while it works.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    world = world_from_environment()
    if live and request.data is None:
        recipe = with_counted_classes(recipe)
    recipe = assume_classes(recipe, told=world is not None and world.rank == 0)
    if has_timm(ways):
        from inceptionctl.bench.timm_step import check_comparable

        check_comparable(recipe)
    refuse_own_ranks(world, request.gpus, request.cpu_ranks)
    signals = RankSignals(speaks=world.rank == 0) if world else None
    if live:
        _refuse_few_images(request.data, recipe)
    if not world or not signals:
        with stoppable("within the measurement"):
            return run_in_ranks(request.words, request.gpus, request.cpu_ranks, request.output)
    found, profile = _measure_as_rank(world, signals, request, recipe, ways, live=live, has_profile=trace is not None)
    if world.rank:
        return None
    left = leave_result(found) or not written(found, request.output)
    if profile and trace:
        profile.write(trace)
    return None if left else found


def _measure_as_rank(
    world: World,
    signals: RankSignals,
    request: _LoopRequest,
    recipe: Recipe,
    ways: tuple[str, ...],
    *,
    live: bool,
    has_profile: bool,
) -> tuple[JsonObject, StepProfile | None]:
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from inceptionctl.bench.machine_facts import facts
    from inceptionctl.bench.profile import STEPS, StepProfile
    from inceptionctl.bench.step_rate import bench_step
    from inceptionctl.bench.ways import has_timm
    from inceptionctl.distributed.session import session

    about = facts(("inceptionctl", "torch", "deepspeed", "nvidia-dali-cuda130", *(("timm",) if has_timm(ways) else ())))
    with (
        session(world, recipe.train.collective_timeout_seconds) as joined,
        tempfile.TemporaryDirectory(prefix="inceptionctl-bench-") as made,
        _rounds(world) as progress,
    ):
        profile = StepProfile(STEPS[joined.device.type]) if has_profile else None
        signals.training_begins()
        figures, kinds = bench_step(
            joined,
            recipe,
            Path(made, "run"),
            signals,
            live=images_for(request.data, recipe, "train") if live else None,
            steps=request.steps or (1 if joined.device.type == "cpu" else 10),
            repeats=request.repeats,
            ways=ways,
            profile=profile,
            progress=progress,
        )
    measured = {"bench": request.bench, "recipe": request.recipe, "settings": list(request.settings)}
    return with_figures({**measured, **about, **kinds}, figures), profile


def _rounds(world: World) -> AbstractContextManager[Callable[[str, int, int], None]]:
    """The bar of the rounds, which rank 0 alone shows."""
    return progress_bar("rounds") if world.rank == 0 else nullcontext(lambda name, done, total: None)


def _refuse_few_images(folder: Path | None, recipe: Recipe) -> None:
    """Raise DataError for images that are missing or too few for a step, before anything heavy is imported."""
    from inceptionctl.bench.photographs import images_below

    found = len(images_below(folder)) if folder else len(images_for(None, recipe, "train"))
    if found < recipe.train.global_batch_size:
        raise DataError(
            f"{folder or recipe.data.root_path} has {found} images, a step takes {recipe.train.global_batch_size}",
            "a smaller --micro-batch-size, or more photographs",
        )


def _refuse_as_trace(file: Path | None) -> None:
    """Before minutes are spent too: a name that says nothing of a Chrome trace, or where it cannot be written."""
    refuse_unwritable(file)
    if file and not file.name.endswith((".json", ".json.gz")):
        raise RecipeError(f"--profile {file}: a trace is JSON", f"name it {file.stem}.json or {file.stem}.json.gz")
    if file and not os.access(file if file.exists() else file.absolute().parent, os.W_OK):
        raise EnvironmentFault(f"cannot write {file}", "name a file in a folder that you may write to")
