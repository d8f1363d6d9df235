"""`inceptionctl predict` as calls: the most likely classes of images, a table of them, or the file of the ILSVRC test server."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from inceptionctl import console
from inceptionctl.errors import DataError, RecipeError
from inceptionctl.protocols import ProtocolName, make_protocol
from inceptionctl.stages.inference import join_ranks, partial_results, progress, write_submission
from inceptionctl.stages.sources import local, refuse_missing_files, refuse_missing_network

if TYPE_CHECKING:
    from inceptionctl.distributed.session import Machine
    from inceptionctl.evaluate.evaluation import Work
    from inceptionctl.evaluate.results import HowUnlabelled
    from inceptionctl.evaluate.resumable import Answers, Ranks
    from inceptionctl.evaluate.trained import Trained
    from inceptionctl.evaluate.unlabelled import Prediction
    from inceptionctl.train.checkpoint_choice import Choice

DEFAULT_BATCH_SIZE = 32
DEFAULT_TOP_K = 5
TABLE_SUFFIXES = (".csv", ".parquet", ".jsonl")


@dataclass(frozen=True)
class PredictRequest:
    """The network, and the images to classify."""

    source: Path
    """A run, a checkpoint, an exported file or a folder of exports."""
    images: tuple[Path, ...]
    """Files, or folders of them."""
    checkpoint: str | None = None
    """`best`, `latest` or a step; the best by default."""
    top_k: int = DEFAULT_TOP_K
    """Classes of each image."""
    explain: Path | None = None
    """Folder for a Grad-CAM of each image, of a run or checkpoint alone."""


@dataclass(frozen=True)
class Predicted:
    """The predictions, and what they are from."""

    predictions: Sequence[Prediction]
    source: Path
    choice: Choice | None
    """Which checkpoint of the run was taken, and why."""


@dataclass(frozen=True)
class TableRequest:
    """A PredictRequest whose answers go into a file, for as many images as there are."""

    source: Path
    images: tuple[Path, ...]
    output: Path
    """A row per image; one of TABLE_SUFFIXES."""
    checkpoint: str | None = None
    top_k: int = DEFAULT_TOP_K
    explain: Path | None = None
    protocol: ProtocolName = "single"
    scales: tuple[int, ...] | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    batch_size: int | None = None


@dataclass(frozen=True)
class Tabulated:
    """A table that was written."""

    num_images: int
    file: Path
    crops: str
    """How images were shown, in words."""
    choice: Choice | None
    bad: list[str]
    """Images that have no classes, with the reason."""


@dataclass(frozen=True)
class SubmissionRequest:
    """A PredictRequest for the ILSVRC test server."""

    source: Path
    images: tuple[Path, ...]
    submission: Path
    """Five labels per line, with a .parquet of all probabilities next to it."""
    checkpoint: str | None = None
    class_ids: Path | None = None
    protocol: ProtocolName = "single"
    scales: tuple[int, ...] | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    batch_size: int | None = None


@dataclass(frozen=True)
class Submitted:
    """A submission that was written."""

    names: list[str]
    """Of the images, in the order of the lines."""
    file: Path
    record: Path
    """The probabilities."""
    crops: str
    """How images were shown, in words."""
    choice: Choice | None


Request = TypeVar("Request", bound=PredictRequest | TableRequest | SubmissionRequest)


def check(request: Request) -> Request:
    """The request, with the folder of the published weights that it may name.

    Raises what is wrong with it, as far as that is known before torch is imported.
    """
    from inceptionctl.data.imageset import refuse_missing_images

    request = replace(request, source=local(request.source))
    refuse_missing_network(request.source, request.checkpoint)
    refuse_missing_images(request.images)
    if isinstance(request, SubmissionRequest):
        refuse_missing_files(class_ids=request.class_ids)
    if isinstance(request, TableRequest) and request.output.suffix.lower() not in TABLE_SUFFIXES:
        known = ", ".join(TABLE_SUFFIXES)
        raise RecipeError(f"--output {request.output}: unknown format", f"use a name that ends in {known}")
    if not isinstance(request, SubmissionRequest) and request.explain and request.explain.is_file():
        raise DataError(f"--explain {request.explain}: is a file", "name a folder for the pictures")
    return request


def predict(request: PredictRequest) -> Predicted:
    """The most likely classes of each image, on the recipe's single crop, in fp32; an image that cannot be decoded has a reason instead.

    Raises CheckpointError and DataError for what the request names.
    """
    request = check(request)
    from inceptionctl.evaluate.resumable import Ranks
    from inceptionctl.evaluate.subject import claim_machine
    from inceptionctl.evaluate.unlabelled import images_of
    from inceptionctl.evaluate.unlabelled import predict as predict_images
    from inceptionctl.export.exporters import open_any

    machine, files = claim_machine(), images_of(request.images)
    trained = _explainable(request, machine)
    network, taken, choice = open_any(request.source, machine.device, request.checkpoint)
    described = network.description
    predictions = predict_images(
        network.logits,
        described.class_names,
        files,
        described.preparation,
        num_threads=machine.num_threads,
        takes_pictures=described.pixels_in,
        top_k=request.top_k,
    )
    if trained:
        _explain(request, trained, machine, files, Ranks())
    return Predicted(predictions, taken, choice)


def _explainable(request: PredictRequest | TableRequest, machine: Machine) -> Trained | None:
    """The network whose answers are to be explained, if they are. Raises RecipeError for an export."""
    from inceptionctl.evaluate.trained import load_trained
    from inceptionctl.export.exporters import exported_file

    if request.explain is None:
        return None
    if exported_file(request.source):
        raise RecipeError(
            f"--explain needs a run or a checkpoint, and {request.source} is an export",
            "name the run that it was exported from",
        )
    return load_trained(request.source, "ema", machine.device, request.checkpoint)


def _explain(
    request: PredictRequest | TableRequest, trained: Trained, machine: Machine, files: Sequence[Path], ranks: Ranks
) -> None:
    """Draw this rank's share of the images."""
    from inceptionctl.evaluate.explain import explain
    from inceptionctl.evaluate.inputs import folder_of, loading_of
    from inceptionctl.recipe.data_section import DataSection

    assert request.explain is not None
    loading = loading_of(machine, DataSection(), machine.device)
    share = range(ranks.rank * len(files) // ranks.size, (ranks.rank + 1) * len(files) // ranks.size)
    with progress(ranks, "explaining") as show:
        explain(trained, folder_of(files), share, request.explain, loading, show)


def tabulate(request: TableRequest) -> Tabulated | None:
    """Predict all images and write the table; resumes an interrupted prediction. Images that cannot be decoded have a row too.

    Under torchrun or srun this process is one rank of the job, and there is a result on rank 0 alone. Raises ResumeLater when a signal
    has stopped it, CheckpointError and DataError for what the request names.
    """
    request = check(request)
    from inceptionctl.data.bad_images import BadImages
    from inceptionctl.evaluate.unlabelled import images_of

    files = list(dict.fromkeys(images_of(request.images)))
    with _ranks() as (machine, ranks):
        trained = _explainable(request, machine)
        work = replace(_work(request, machine, files), bad=BadImages(len(files)))
        done = _tabulate(request, work, files, ranks)
        if trained:
            _explain(request, trained, machine, files, ranks)
        return done


def submit(request: SubmissionRequest) -> Submitted | None:
    """Predict all images and write the server's file; resumes an interrupted prediction.

    Under torchrun or srun this process is one rank of the job, and there is a result on rank 0 alone. Raises DataError for an image
    that cannot be decoded, since a submission needs every line, and ResumeLater when a signal has stopped it.
    """
    request = check(request)
    from inceptionctl.evaluate.unlabelled import ids_of, images_of, numeric_order

    found = images_of(request.images)
    files = [found[place] for place in numeric_order([file.name for file in found])]
    with _ranks() as (machine, ranks):
        work = _work(request, machine, files)
        ids = ids_of(work.subject.classes, request.class_ids)
        return _submit(request, work, [file.name for file in files], ids, ranks)


@contextmanager
def _ranks() -> Iterator[tuple[Machine, Ranks]]:
    from inceptionctl.distributed.signals import stoppable
    from inceptionctl.distributed.world import world_from_environment

    with (
        stoppable("within the prediction; finished batches are kept"),
        join_ranks(world_from_environment()) as joined,
    ):
        yield joined


def _work(request: TableRequest | SubmissionRequest, machine: Machine, files: Sequence[Path]) -> Work:
    from inceptionctl.evaluate.evaluation import Work
    from inceptionctl.evaluate.inputs import folder_of, loading_of
    from inceptionctl.evaluate.subject import check_protocol
    from inceptionctl.export.exporters import subject_of_any
    from inceptionctl.recipe.data_section import DataSection

    subject = subject_of_any(request.source, machine.device, request.precision, request.checkpoint)
    check_protocol(subject, request.protocol)
    return Work(
        subject,
        folder_of(files),
        make_protocol(request.protocol, subject.preparation.input_px, request.scales),
        request.batch_size or DEFAULT_BATCH_SIZE,
        loading_of(machine, DataSection(), subject.device),
    )


def _tabulate(request: TableRequest, work: Work, files: Sequence[Path], ranks: Ranks) -> Tabulated | None:
    from inceptionctl.data.reasons import shown
    from inceptionctl.data.sources.class_lists import imagenet_words
    from inceptionctl.evaluate.prediction_table import Table, write_table

    with partial_results(request.output) as folder:
        answers = _answers(work, folder, ranks)
        if answers is None:
            return None
        reasons, classes = answers.parts.reasons(), work.subject.classes
        paths = [shown(os.fsencode(file)) for file in files]
        of_each = [reasons.get(work.images.name(i)) for i in range(len(files))]
        table = Table(paths, answers.probabilities, of_each, classes, imagenet_words(classes), request.top_k)
        write_table(request.output, table, _about(work))
        answers.parts.remove()
    bad = [f"{path}: {error}" for path, error in zip(paths, table.errors(), strict=True) if error]
    return Tabulated(len(files), request.output, _crops(work), work.subject.choice, bad)


def _submit(request: SubmissionRequest, work: Work, names: list[str], ids: list[int], ranks: Ranks) -> Submitted | None:
    from torch import from_numpy

    from inceptionctl.evaluate.records import write_answers

    record = request.submission.with_suffix(".parquet")
    with partial_results(request.submission) as folder:
        try:
            answers = _answers(work, folder, ranks)
        except DataError as error:
            hint = "a submission needs a line for every image: repair these, then rerun the same command to resume"
            raise DataError(error.message, hint) from None
        if answers is None:
            return None
        write_answers(record, names, None, work.subject.classes, answers.probabilities, _about(work))
        write_submission(request.submission, names, from_numpy(answers.probabilities), ids)
        answers.parts.remove()
    return Submitted(names, request.submission, record, _crops(work), work.subject.choice)


def _answers(work: Work, folder: Path, ranks: Ranks) -> Answers | None:
    from inceptionctl.evaluate.resumable import answer_all

    say = console.say if ranks.rank == 0 else lambda text: None
    with progress(ranks, "predicting") as show:
        return answer_all(work, folder, ranks, on_progress=show, say=say)


def _about(work: Work) -> HowUnlabelled:
    from inceptionctl.evaluate.evaluation import how_answered

    return {**how_answered(work), "classes": [*work.subject.classes]}


def _crops(work: Work) -> str:
    return "the recipe's single crop" if work.protocol is None else work.protocol.in_words()
