"""`inceptionctl evaluate` as a call: the errors of a trained network by the protocols of the paper's tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from inceptionctl import console
from inceptionctl.errors import RecipeError
from inceptionctl.protocols import ProtocolName, make_protocol
from inceptionctl.stages.inference import join_ranks, partial_results, progress
from inceptionctl.stages.sources import local, refuse_missing_data, refuse_missing_files, refuse_missing_network

if TYPE_CHECKING:
    from inceptionctl.distributed.session import Machine
    from inceptionctl.evaluate.evaluation import Work
    from inceptionctl.evaluate.results import RealErrors, ResultWithReal
    from inceptionctl.evaluate.resumable import Ranks
    from inceptionctl.evaluate.subject import Subject
    from inceptionctl.recipe.schema import Recipe
    from inceptionctl.train.checkpoint_choice import Choice

DEFAULT_BATCH_SIZE = 32  # of an export outside a run


@dataclass(frozen=True)
class EvaluateRequest:
    """What to evaluate, by which protocol, and on which images."""

    source: Path
    """A run, a checkpoint or an exported file."""
    protocol: ProtocolName = "single"
    scales: tuple[int, ...] | None = None
    """Shorter sides in px; the protocol's by default."""
    weights: Literal["ema", "raw"] = "ema"
    checkpoint: str | None = None
    """`best`, `latest` or a step; the best by default."""
    every: bool = False
    """Every checkpoint of the run, the oldest first."""
    data: Path | None = None
    """Root of the data set; the recipe's by default."""
    subset: Literal["all", "non-blacklisted"] = "all"
    blacklist: Path | None = None
    real_labels: Path | None = None
    """real.json of ImageNet ReaL."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    batch_size: int | None = None
    """Crops per batch; the recipe's by default."""
    output: Path | None = None
    """JSON file, with a .parquet next to it; in RUN/evaluations by default."""


@dataclass(frozen=True)
class EvaluateResult:
    """One network's result."""

    result: ResultWithReal
    """As `evaluate --json` prints it."""
    choice: Choice | None
    """Which checkpoint of the run was taken, and why."""
    file: Path | None
    """Where the result was written."""


def check(request: EvaluateRequest) -> EvaluateRequest:
    """The request, with the folder of the published weights that it may name.

    Raises what is wrong with it, as far as that is known before torch is imported.
    """
    if request.every and request.output:
        raise RecipeError("--all writes a file per checkpoint, but --output names a single one", "leave one of the two out")
    if request.every and request.checkpoint:
        raise RecipeError(
            f"--all takes every checkpoint, but --checkpoint {request.checkpoint} names one", "leave one of the two out"
        )
    refuse_missing_data(request.data)
    refuse_missing_files(blacklist=request.blacklist, real_labels=request.real_labels)
    request = dataclasses.replace(request, source=local(request.source))
    refuse_missing_network(request.source, request.checkpoint)
    return request


def evaluate(request: EvaluateRequest) -> list[EvaluateResult]:
    """Measure the errors on the validation images and write them; resumes an interrupted evaluation.

    Under torchrun or srun this process is one rank of the job, and the list is empty but on rank 0. Raises RecipeError, CheckpointError and
    DataError for what the request names, ResumeLater when a signal has stopped it.
    """
    return list(evaluations(request))


def evaluations(request: EvaluateRequest) -> Iterator[EvaluateResult]:
    """`evaluate`, one checkpoint after the other."""
    from inceptionctl.distributed.signals import stoppable
    from inceptionctl.distributed.world import world_from_environment

    request = check(request)
    with (
        stoppable("within the evaluation; finished batches are kept"),
        join_ranks(world_from_environment()) as (machine, ranks),
    ):
        for source in _checkpoints(request.source) if request.every else [request.source]:
            done = _evaluate_one(request, source, machine, ranks)
            if done:
                yield done


def draw(request: EvaluateRequest, image: Path) -> Path:
    """Draw the crops that the protocol takes of an image; the picture, `output` or crops.png."""
    request = check(request)
    refuse_missing_files(show_crops=image)

    import torch

    from inceptionctl.evaluate.crop_boxes import draw_crops
    from inceptionctl.evaluate.trained import load_trained
    from inceptionctl.export.exporters import subject_of_export
    from inceptionctl.train.inputs import preparation_of

    source, file = request.source, request.output or Path("crops.png")
    of_run = None if source.is_file() else load_trained(source, "ema", torch.device("cpu"))
    preparation = preparation_of(of_run.recipe) if of_run else subject_of_export(source).preparation
    name = request.protocol
    protocol = make_protocol(name, preparation.input_px, request.scales)
    draw_crops(image, protocol, preparation, file)
    console.say(f"wrote {file}")
    return file


def _checkpoints(source: Path) -> list[Path]:
    from inceptionctl.run import open_run
    from inceptionctl.train.checkpoint_files import list_checkpoints

    return list_checkpoints(open_run(source).checkpoints)


def _evaluate_one(request: EvaluateRequest, source: Path, machine: Machine, ranks: Ranks) -> EvaluateResult | None:
    from inceptionctl.data.sources.exclusions import subset_of

    subject, recipe, stem = _open(request, source, machine)
    work = _work(request, subject, recipe, machine)
    blacklist = request.blacklist or (recipe.evaluate.blacklist_path if recipe else None)
    work = dataclasses.replace(work, images=subset_of(work.images, request.subset, blacklist), subset=request.subset)
    name = request.protocol if request.subset == "all" else f"{request.protocol}_{request.subset}"
    file = request.output or (stem and stem.with_name(f"{stem.name}_{name}.json"))
    result = _run(work, ranks, file, request.real_labels)
    return None if result is None else EvaluateResult(result, work.subject.choice, file)


def _open(request: EvaluateRequest, source: Path, machine: Machine) -> tuple[Subject, Recipe | None, Path | None]:
    """(the network, the recipe that it was trained with, where in its run results belong without the protocol's name)."""
    from inceptionctl.evaluate.subject import subject_of
    from inceptionctl.evaluate.trained import load_trained
    from inceptionctl.run import Run, is_run, located
    from inceptionctl.train.step import resolve_precision

    if not source.is_file():
        trained = load_trained(source, request.weights, machine.device, request.checkpoint)
        subject = subject_of(trained, resolve_precision(request.precision, machine.device), machine.device)
        stem = trained.run.evaluations / f"step-{trained.step:08d}_{request.weights}" if trained.run else None
        return subject, trained.recipe, stem
    from inceptionctl.export.exporters import refuse_choice, subject_of_export

    refuse_choice(source, request.checkpoint)
    subject = subject_of_export(source)
    run = Run(source.parent.parent) if is_run(source.parent.parent) else None
    # model_pixels_int8.onnx -> ..._onnx_pixels_int8
    variant = "_".join([source.suffix[1:], *source.stem.split("_")[1:]])
    name = f"step-{subject.step:08d}_{subject.weights}_{variant}"
    return subject, located(run.recipe(), run) if run else None, run.evaluations / name if run else None


def _work(request: EvaluateRequest, subject: Subject, recipe: Recipe | None, machine: Machine) -> Work:
    from inceptionctl.data.dataset import open_split
    from inceptionctl.evaluate.evaluation import Work, check_classes
    from inceptionctl.evaluate.inputs import loading_of
    from inceptionctl.evaluate.subject import check_protocol
    from inceptionctl.recipe.data_section import DataSection

    if recipe is None and request.data is None:
        raise RecipeError(f"{subject.source} is not in a run directory, so its data set is unknown", "name it with --data ROOT")
    name = request.protocol
    check_protocol(subject, name)
    root = request.data or (recipe.data.root_path if recipe else Path())
    images = open_split(root, "val", **(recipe.data.sources(root) if recipe else {}))
    check_classes(images, subject.classes, subject.source)
    return Work(
        subject,
        images,
        make_protocol(name, subject.preparation.input_px, request.scales),
        request.batch_size or (recipe.evaluate.batch_size if recipe else DEFAULT_BATCH_SIZE),
        loading_of(machine, recipe.data if recipe else DataSection(), subject.device),
    )


def _run(work: Work, ranks: Ranks, file: Path | None, real_labels: Path | None) -> ResultWithReal | None:
    """Evaluate and write; rank 0 gets the result."""
    from torch import from_numpy

    from inceptionctl.evaluate.evaluation import result_of, write_probabilities, write_result
    from inceptionctl.evaluate.metrics import real_errors
    from inceptionctl.evaluate.resumable import answer_all

    speaks = ranks.rank == 0
    if file is None and ranks.size > 1:
        raise RecipeError(
            f"{work.subject.source} is not in a run directory, where the ranks could share their results",
            "name a file with --output",
        )
    with partial_results(file) as folder:
        with progress(ranks, "evaluating") as show:
            answers = answer_all(work, folder, ranks, on_progress=show, say=console.say if speaks else lambda text: None)
        if answers is None:
            return None
        real: RealErrors = {}
        if real_labels:
            real = real_errors(work.images, from_numpy(answers.probabilities).argmax(1), real_labels)
        result: ResultWithReal = {
            **result_of(work, answers.probabilities, answers.num_answered, answers.seconds),
            **real,
        }
        if file:
            write_result(result, file)
            write_probabilities(work, answers.probabilities, result, file.with_suffix(".parquet"))
        answers.parts.remove()
    return result
