"""`inceptionctl predict` as calls: the most likely classes of images, or the file of the ILSVRC test server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from inceptionctl import console
from inceptionctl.errors import DataError
from inceptionctl.protocols import ProtocolName, make_protocol
from inceptionctl.stages.inference import join_ranks, partial_results, progress, write_submission
from inceptionctl.stages.sources import refuse_missing_files, refuse_missing_network

if TYPE_CHECKING:
    from inceptionctl.distributed.session import Machine
    from inceptionctl.evaluate.evaluation import Work
    from inceptionctl.evaluate.resumable import Ranks
    from inceptionctl.evaluate.unlabelled import Prediction
    from inceptionctl.train.checkpoint_choice import Choice

DEFAULT_BATCH_SIZE = 32


@dataclass(frozen=True)
class PredictRequest:
    """The network, and the images to classify."""

    source: Path
    """A run, a checkpoint, an exported file or a folder of exports."""
    images: tuple[Path, ...]
    """Files, or folders of them."""
    checkpoint: str | None = None
    """`best`, `latest` or a step; the best by default."""


@dataclass(frozen=True)
class Predicted:
    """The predictions, and what they are from."""

    predictions: Sequence[Prediction]
    source: Path
    choice: Choice | None
    """Which checkpoint of the run was taken, and why."""


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


def check(request: PredictRequest | SubmissionRequest) -> None:
    """Raise what is wrong with a request, as far as that is known before torch is imported."""
    from inceptionctl.data.imageset import refuse_missing_images

    refuse_missing_network(request.source, request.checkpoint)
    refuse_missing_images(request.images)
    if isinstance(request, SubmissionRequest):
        refuse_missing_files(class_ids=request.class_ids)


def predict(request: PredictRequest) -> Predicted:
    """The five most likely classes of each image, on the recipe's single crop, in fp32; an image that cannot be decoded has a reason instead.

    Raises CheckpointError and DataError for what the request names.
    """
    check(request)
    from inceptionctl.evaluate.subject import claim_machine
    from inceptionctl.evaluate.unlabelled import images_of
    from inceptionctl.evaluate.unlabelled import predict as predict_images
    from inceptionctl.export.exporters import open_any

    machine = claim_machine()
    network, taken, choice = open_any(request.source, machine.device, request.checkpoint)
    described = network.description
    predictions = predict_images(
        network.logits,
        described.class_names,
        images_of(request.images),
        described.preparation,
        num_threads=machine.num_threads,
        takes_pictures=described.pixels_in,
    )
    return Predicted(predictions, taken, choice)


def submit(request: SubmissionRequest) -> Submitted | None:
    """Predict all images and write the server's file; resumes an interrupted prediction.

    Under torchrun or srun this process is one rank of the job, and there is a result on rank 0 alone. Raises DataError for an image
    that cannot be decoded, since a submission needs every line, and ResumeLater when a signal has stopped it.
    """
    check(request)
    from inceptionctl.distributed.signals import stoppable
    from inceptionctl.distributed.world import world_from_environment

    with (
        stoppable("within the prediction; finished batches are kept"),
        join_ranks(world_from_environment()) as (machine, ranks),
    ):
        work, names, ids = _work(request, machine)
        return _submit(request, work, names, ids, ranks)


def _work(request: SubmissionRequest, machine: Machine) -> tuple[Work, list[str], list[int]]:
    """What is to be answered, the images' names, and the label of each class."""
    from inceptionctl.evaluate.evaluation import Work
    from inceptionctl.evaluate.inputs import folder_of, loading_of
    from inceptionctl.evaluate.subject import check_protocol
    from inceptionctl.evaluate.unlabelled import ids_of, images_of, numeric_order
    from inceptionctl.export.exporters import subject_of_any
    from inceptionctl.recipe.data_section import DataSection

    files, name = images_of(request.images), request.protocol
    ordered = [files[place] for place in numeric_order([file.name for file in files])]
    subject = subject_of_any(request.source, machine.device, request.precision, request.checkpoint)
    check_protocol(subject, name)
    ids = ids_of(subject.classes, request.class_ids)
    work = Work(
        subject,
        folder_of(ordered),
        make_protocol(name, subject.preparation.input_px, request.scales),
        request.batch_size or DEFAULT_BATCH_SIZE,
        loading_of(machine, DataSection(), subject.device),
    )
    return work, [file.name for file in ordered], ids


def _submit(request: SubmissionRequest, work: Work, names: list[str], ids: list[int], ranks: Ranks) -> Submitted | None:
    from torch import from_numpy

    from inceptionctl.evaluate.evaluation import how_answered
    from inceptionctl.evaluate.records import write_answers
    from inceptionctl.evaluate.results import HowUnlabelled
    from inceptionctl.evaluate.resumable import answer_all

    record = request.submission.with_suffix(".parquet")
    say = console.say if ranks.rank == 0 else lambda text: None
    with partial_results(request.submission) as folder:
        with progress(ranks, "predicting") as show:
            try:
                answers = answer_all(work, folder, ranks, on_progress=show, say=say)
            except DataError as error:
                hint = "a submission needs a line for every image: repair these, then rerun the same command to resume"
                raise DataError(error.message, hint) from None
        if answers is None:
            return None
        classes = work.subject.classes
        about: HowUnlabelled = {**how_answered(work), "classes": [*classes]}
        write_answers(record, names, None, classes, answers.probabilities, about)
        write_submission(request.submission, names, from_numpy(answers.probabilities), ids)
        answers.parts.remove()
    crops = "the recipe's single crop" if work.protocol is None else work.protocol.in_words()
    return Submitted(names, request.submission, record, crops, work.subject.choice)
