"""`inceptionctl predict`: the likeliest classes of images, on the screen or as the file of the ILSVRC test server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from inceptionctl import console
from inceptionctl.cli.answering import answering, folder_of_parts, join_ranks, shorter_sides, start_ranks
from inceptionctl.cli.options import CheckpointOption, ClassIdsOption, Json, ProtocolName, run_named
from inceptionctl.cli.sources import refuse_missing_files, refuse_missing_network
from inceptionctl.errors import DataError, RecipeError
from inceptionctl.words import counted

if TYPE_CHECKING:
    from inceptionctl.evaluate.evaluation import Work
    from inceptionctl.evaluate.predict import Prediction
    from inceptionctl.evaluate.running import Answers, Ranks
    from inceptionctl.train.checkpoint_choice import Choice

DEFAULT_BATCH_SIZE = 32


def predict(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|EXPORT",
            help="A run directory or its name under runs/, a checkpoint folder, an exported file, or a folder of exports.",
            callback=run_named,
        ),
    ],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files, or folders of them.")],
    checkpoint: CheckpointOption = None,
    submission: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the ILSVRC test server's file: five labels a line, images by their numbers."),
    ] = None,
    class_ids: ClassIdsOption = None,
    protocol: Annotated[
        ProtocolName, typer.Option(help="With --submission: crops of an image, as `evaluate` has them.")
    ] = "single",
    scales: Annotated[
        str | None, typer.Option(metavar="PX,...", help="With --submission: shorter sides that images are resized to.")
    ] = None,
    precision: Annotated[
        Literal["auto", "fp32", "bf16"],
        typer.Option(help="With --submission; `auto` is bf16 where the processor computes it natively."),
    ] = "auto",
    batch_size: Annotated[
        int | None, typer.Option(min=1, help=f"With --submission: crops at once; {DEFAULT_BATCH_SIZE} by default.")
    ] = None,
    gpus: Annotated[
        int | None, typer.Option(min=1, help="With --submission: GPUs of this machine to share the images.")
    ] = None,
    cpu_ranks: Annotated[int | None, typer.Option(min=1, help="With --submission: CPU processes to share the images.")] = None,
    as_json: Json = False,
) -> None:
    """Name the five likeliest classes of images.

    Exit code 3 if one cannot be decoded; the others are answered all the same, unless a submission needs every line.
    Open a model.pt2 only from a source that you trust: torch may run code in it.
    """
    from inceptionctl.data.imageset import refuse_missing_images

    if submission is None:
        given = {
            "--class-ids": class_ids,
            "--scales": scales,
            "--batch-size": batch_size,
            "--gpus": gpus,
            "--cpu-ranks": cpu_ranks,
        }
        alone = [name for name, value in given.items() if value is not None]
        alone += ["--protocol"] * (protocol != "single") + ["--precision"] * (precision != "auto")
        if alone:
            raise RecipeError(
                f"{alone[0]} needs --submission FILE", "without it each image is shown as the recipe's one crop, in fp32"
            )
        refuse_missing_network(source, checkpoint)
        refuse_missing_images(images)
        _show(source, images, checkpoint, as_json)
        return
    refuse_missing_network(source, checkpoint)
    refuse_missing_images(images)
    refuse_missing_files(class_ids=class_ids)
    from inceptionctl.launch.signals import stoppable
    from inceptionctl.launch.world import refuse_own_ranks, world_from_environment

    world, sides = world_from_environment(), shorter_sides(scales, protocol)
    refuse_own_ranks(world, gpus, cpu_ranks)
    if world is None and (gpus or cpu_ranks):
        start_ranks(gpus, cpu_ranks)
        return
    with stoppable("within the prediction; what was answered is kept"):
        from inceptionctl.evaluate.evaluation import Work
        from inceptionctl.evaluate.images import folder_of
        from inceptionctl.evaluate.predict import images_of
        from inceptionctl.evaluate.protocols import make_protocol
        from inceptionctl.evaluate.subject import check_protocol
        from inceptionctl.evaluate.submission import ids_of, numeric_order
        from inceptionctl.export.opening import subject_of_any
        from inceptionctl.recipe.data_section import DataSection

        machine, ranks = join_ranks(world)
        files = images_of(images)
        ordered = [files[place] for place in numeric_order([file.name for file in files])]
        subject = subject_of_any(source, machine.device, precision, checkpoint)
        check_protocol(subject, protocol)
        ids = ids_of(subject.classes, class_ids)
        work = Work(
            subject,
            folder_of(ordered),
            None if protocol == "single" else make_protocol(protocol, subject.preparation.input_px, sides),
            batch_size or DEFAULT_BATCH_SIZE,
            machine.loading(DataSection(), subject.device),
        )
        _submit(work, [file.name for file in ordered], ids, ranks, submission, as_json)


def _submit(work: Work, names: list[str], ids: list[int], ranks: Ranks, file: Path, as_json: bool) -> None:
    """Answer all images, and write the two files on rank 0."""
    from torch import from_numpy

    from inceptionctl.evaluate.evaluation import how_answered
    from inceptionctl.evaluate.records import write_answers
    from inceptionctl.evaluate.results import HowUnlabelled
    from inceptionctl.evaluate.submission import submission
    from inceptionctl.run import write_atomically

    with folder_of_parts(file) as folder:
        answers = _answered(work, folder, ranks)
        if answers is None:
            return
        record = file.with_suffix(".parquet")
        about: HowUnlabelled = {**how_answered(work), "classes": [*work.subject.classes]}
        write_answers(record, names, None, work.subject.classes, answers.probabilities, about)
        write_atomically(file, submission(from_numpy(answers.probabilities), ids))
        answers.parts.remove()
    shown = "the recipe's one crop" if work.protocol is None else work.protocol.in_words()
    by = work.subject.choice.in_words() if work.subject.choice else ""
    if as_json:
        told = {"source": str(work.subject.source), "images": len(names), "crops": shown}
        console.print_json({**told, "submission": str(file), "probabilities": str(record)})
    else:
        console.out.print(f"{counted(len(names), 'image')} by {work.subject.source}, {shown}")
    if by:
        console.say(f"by {by}")
    say_written(file, names)
    console.say(f"and the probabilities into {record.name}; `inceptionctl ensemble` averages several")


def _answered(work: Work, folder: Path, ranks: Ranks) -> Answers | None:
    from inceptionctl.evaluate.running import answer_all

    say = console.say if ranks.rank == 0 else lambda text: None
    with answering(ranks, "predicting") as show:
        try:
            return answer_all(work, folder, ranks, on_progress=show, say=say)
        except DataError as error:
            raise DataError(
                error.message,
                "a submission has a line for every image: mend these, then give the same command again, which goes on",
            ) from None


def say_written(file: Path, names: list[str]) -> None:
    """Tell that a submission was written, and whether the server wants another number of lines."""
    from inceptionctl.evaluate.submission import lines_lacking

    differ = lines_lacking(names)
    if differ:
        console.warn(
            f"{differ[0]:,} lines, and that set has {differ[1]:,} images", "the server takes files of all images alone"
        )
    console.say(f"wrote {file}")


def _show(source: Path, images: Sequence[Path], checkpoint: str | None, as_json: bool) -> None:
    """The classes of each image on the screen."""
    from inceptionctl.evaluate.machine import claim_machine
    from inceptionctl.evaluate.predict import images_of
    from inceptionctl.evaluate.predict import predict as predict_images
    from inceptionctl.export.opening import open_any

    machine = claim_machine()
    network, taken, choice = open_any(source, machine.device, checkpoint)
    files, described = images_of(images), network.description
    predictions = predict_images(
        network.logits,
        described.class_names,
        files,
        described.preparation,
        num_threads=machine.num_threads,
        takes_pictures=described.pixels_in,
    )
    if as_json:
        told = {"source": str(taken), "chosen": choice and choice.to_json()}
        console.print_json({**told, "predictions": [_prediction_json(item) for item in predictions]})
    else:
        _print_predictions(predictions)
        _say_source(taken, choice)
    bad = [f"{item.image}: {item.reason}" for item in predictions if item.reason]
    if bad:
        raise DataError("cannot decode " + (bad[0] if len(bad) == 1 else f"{len(bad)} images:\n" + "\n".join(bad)))


def _say_source(taken: Path, choice: Choice | None) -> None:
    words = choice.in_words() if choice else ""
    console.say(f"by {taken}" + (f", {words}" if words else ""))


def _prediction_json(item: Prediction) -> dict[str, object]:
    classes = [{"class": name, "probability": value} for name, value in item.classes]
    return {"image": str(item.image), "classes": classes, "error": item.reason}


def _print_predictions(predictions: Sequence[Prediction]) -> None:
    rows = [
        (item.image if rank == 0 else "", name, f"{value:.4f}")
        for item in predictions
        for rank, (name, value) in enumerate(item.classes)
    ]
    if rows:
        console.print_table("Likeliest classes", ("image", "class", "probability"), rows, right=("probability",))
