"""`inceptionctl bench evaluate` and `checkpoint`: what an evaluation and a save cost on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from inceptionctl.console import JsonObject
from inceptionctl.errors import EnvironmentFault, RecipeError
from inceptionctl.stages.bench_io import images_for, progress_bar, refuse_unwritable, this_machine, with_figures, written
from inceptionctl.stages.checks import assume_classes, check_steps
from inceptionctl.stages.sources import refuse_missing_network

if TYPE_CHECKING:
    from inceptionctl.distributed.session import Machine
    from inceptionctl.evaluate.subject import Subject
    from inceptionctl.protocols import ProtocolName
    from inceptionctl.recipe.schema import Recipe


@dataclass(frozen=True)
class BenchEvaluateRequest:
    """The arguments and options of `inceptionctl bench evaluate`."""

    source: str = "inception_v4"
    """A recipe, whose network gets random weights, or a run by path or name."""
    settings: Sequence[str] = ()
    data: Path | None = None
    """Photographs to take, from anywhere below; else the validation images."""
    protocol: Sequence[ProtocolName] = ("144crop",)
    images: int = 16
    """Pictures of each kind, square and other."""
    batch_sizes: Sequence[int] = (4, 8, 16)
    """Crops at once; each way of evaluating takes the best of these for itself."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    repeats: int = 3
    output: Path | None = None


@dataclass(frozen=True)
class BenchCheckpointRequest:
    """The arguments and options of `inceptionctl bench checkpoint`."""

    recipe: str = "inception_v4"
    settings: Sequence[str] = ()
    micro_batch_size: int | None = None
    """Images of a step; the recipe's train.micro_batch_size by default."""
    repeats: int = 5
    folder: Path = Path()
    """On the disk to be measured."""
    output: Path | None = None


def evaluate(request: BenchEvaluateRequest) -> JsonObject:
    """Seconds an image of each protocol, beside as many independent single-crop passes as it has crops: what `--json` prints.

    Raises RecipeError, CheckpointError for a run without a checkpoint, and DataError for images that are missing.
    """
    source = _recipe_or_run(request)
    refuse_unwritable(request.output)

    from inceptionctl.bench.machine_facts import facts
    from inceptionctl.bench.protocol_cost import bench_evaluate, pictures_by_kind
    from inceptionctl.evaluate.inputs import loading_of
    from inceptionctl.evaluate.subject import claim_machine

    machine = claim_machine()
    recipe, subject = _subject(source, request, machine)
    kinds, left_out = pictures_by_kind(images_for(request.data, recipe, "val"), request.images)
    about = facts(("inceptionctl", "torch", "nvidia-dali-cuda130", "numpy", "pillow"))
    with progress_bar("measuring") as progress:
        figures, chosen, difference = bench_evaluate(
            subject,
            kinds,
            request.protocol,
            batch_sizes=request.batch_sizes,
            repeats=request.repeats,
            loading=loading_of(machine, recipe.data, machine.device),
            progress=progress,
        )
    result = {
        "bench": "evaluate",
        **about,
        "source": request.source,
        "settings": list(request.settings),
        "network": subject.network,
        "precision": subject.precision,
        "tf32": subject.tf32,
        "device": subject.device.type,
        "images": {kind: len(found) for kind, found in kinds.items()},
        "batch_sizes": chosen,
        "largest_difference": difference,
        "left_out": left_out,
    }
    return written(with_figures(result, figures), request.output)


def checkpoint(request: BenchCheckpointRequest) -> JsonObject:
    """How long a save blocks training, in the background and in the foreground, beside a step on noise: what `--json` prints.

    Raises RecipeError, and EnvironmentFault for a folder that is not there.
    """
    import tempfile

    from inceptionctl.recipe import load_recipe

    recipe = load_recipe(request.recipe, request.settings)
    refuse_unwritable(request.output)
    if not request.folder.is_dir():
        raise EnvironmentFault(f"no folder {request.folder}", "name an existing folder on the disk to be measured")
    batch_size = request.micro_batch_size or recipe.train.micro_batch_size
    # At a rate that leaves the weights alone.
    step = [f"train.micro_batch_size={batch_size}", f"train.global_batch_size={batch_size}", "schedule.base_lr=1e-6"]
    recipe = load_recipe(request.recipe, [*request.settings, *step])
    check_steps(recipe, request.recipe, request.settings, 1)
    recipe = assume_classes(recipe)

    from inceptionctl.bench.checkpoint_stall import bench_checkpoint
    from inceptionctl.bench.machine_facts import facts

    about = facts(("inceptionctl", "torch", "safetensors"))
    with (
        progress_bar("measuring") as progress,
        tempfile.TemporaryDirectory(prefix="inceptionctl-bench-", dir=request.folder) as made,
    ):
        device = this_machine().device
        figures, num_bytes = bench_checkpoint(recipe, Path(made), device, request.repeats, progress)
    measured = {"recipe": request.recipe, "settings": list(request.settings), "images": batch_size}
    result = {"bench": "checkpoint", **about, **measured, "checkpoint_bytes": num_bytes}
    return written(with_figures(result, figures), request.output)


def _recipe_or_run(request: BenchEvaluateRequest) -> Recipe | Path:
    """Which of the two the source names, before torch is imported."""
    from inceptionctl.recipe import bundled_recipes, load_recipe
    from inceptionctl.run import find_run

    named = Path(request.source)
    run = named if request.source in bundled_recipes() else find_run(named)
    if not run.is_dir():
        return assume_classes(load_recipe(request.source, request.settings))
    if request.settings:
        raise RecipeError("--set changes a recipe, and a run keeps its own", "name the recipe, or leave --set out")
    refuse_missing_network(named)
    return run


def _subject(source: Recipe | Path, request: BenchEvaluateRequest, machine: Machine) -> tuple[Recipe, Subject]:
    """What answers, and its recipe."""
    from inceptionctl.evaluate.subject import subject_of, untrained_subject
    from inceptionctl.evaluate.trained import load_trained
    from inceptionctl.train.step import resolve_precision

    precision = resolve_precision(request.precision, machine.device)
    if not isinstance(source, Path):
        return source, untrained_subject(source, precision, machine.device)
    trained = load_trained(source, "ema", machine.device)
    return trained.recipe, subject_of(trained, precision, machine.device)
