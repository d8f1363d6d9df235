"""`inceptionctl predict`: the most likely classes of images, on the terminal, as a table, or as a file for the ILSVRC test server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from inceptionctl import console
from inceptionctl.cli.options import (
    CheckpointOption,
    ClassIdsOption,
    Json,
    requested,
    run_named,
    shorter_sides,
    start_ranks,
)
from inceptionctl.errors import DataError, RecipeError
from inceptionctl.protocols import ProtocolName
from inceptionctl.stages.predict import (
    DEFAULT_BATCH_SIZE,
    DEFAULT_TOP_K,
    PredictRequest,
    SubmissionRequest,
    TableRequest,
    check,
    submit,
    tabulate,
)
from inceptionctl.stages.predict import predict as predict_classes
from inceptionctl.words import counted

if TYPE_CHECKING:
    from inceptionctl.evaluate.unlabelled import Prediction

MOST_NAMED = 20


def predict(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|EXPORT",
            help="A run directory or its name under runs/, a checkpoint folder, an exported file, or a folder of exports.",
            callback=run_named,
        ),
    ],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files, or folders of them at any depth.")],
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a row per image: .csv, .parquet or .jsonl. Resumes after an interruption."),
    ] = None,
    submission: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a file for the ILSVRC test server: five labels per line, images by number."),
    ] = None,
    checkpoint: CheckpointOption = None,
    top_k: Annotated[
        int | None, typer.Option(min=1, help=f"Most likely classes of each image; {DEFAULT_TOP_K} by default.")
    ] = None,
    explain: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Draw Grad-CAM, what in each image speaks for its most likely class, as one PNG per image; of a run or checkpoint.",
        ),
    ] = None,
    class_ids: ClassIdsOption = None,
    protocol: Annotated[ProtocolName, typer.Option(help="With a file to write: crops per image, as in `evaluate`.")] = "single",
    scales: Annotated[
        str | None, typer.Option(metavar="PX,...", help="With a file to write: shorter sides that images are resized to.")
    ] = None,
    precision: Annotated[
        Literal["auto", "fp32", "bf16"],
        typer.Option(help="With a file to write: `auto` is bf16 where the hardware supports it natively."),
    ] = "auto",
    batch_size: Annotated[
        int | None, typer.Option(min=1, help=f"With a file to write: crops per batch; {DEFAULT_BATCH_SIZE} by default.")
    ] = None,
    gpus: Annotated[int | None, typer.Option(min=1, help="With a file to write: GPUs of this machine to use.")] = None,
    cpu_ranks: Annotated[int | None, typer.Option(min=1, help="With a file to write: ranks on the CPU.")] = None,
    as_json: Json = False,
) -> None:
    """Predict the most likely classes of images.

    Exit code 3 if an image cannot be decoded; the others are still predicted, except for a submission, which needs every line.
    Only open a model.pt2 that you trust: torch may run code in it.
    """
    arguments = locals()
    _refuse_options_of_others(arguments)
    if submission is None and output is None:
        _show(requested(arguments, PredictRequest), as_json)
        return
    sides = shorter_sides(scales, protocol)
    request: SubmissionRequest | TableRequest = (
        requested(arguments, TableRequest, scales=sides) if output else requested(arguments, SubmissionRequest, scales=sides)
    )
    request = check(request)
    if start_ranks(gpus, cpu_ranks):
        return
    if isinstance(request, SubmissionRequest):
        _submit(request, as_json)
    else:
        _tabulate(request, as_json)


def _refuse_options_of_others(arguments: Mapping[str, object]) -> None:
    """Raise RecipeError for an option that what is asked for does not have."""
    submission, output = arguments["submission"], arguments["output"]
    if submission and output:
        raise RecipeError("--output and --submission are two predictions", "give one of them, then the other")
    if submission and arguments["top_k"]:
        raise RecipeError("--top-k does not apply to --submission", "the server takes five labels per line")
    if submission and arguments["explain"]:
        raise RecipeError("--explain does not apply to --submission", "use it with --output, or alone")
    if not submission and arguments["class_ids"]:
        raise RecipeError("--class-ids needs --submission FILE", "it numbers the labels of that file")
    for name in ("scales", "batch_size", "gpus", "cpu_ranks", "protocol", "precision"):
        if not (submission or output) and arguments[name] not in (None, "single", "auto"):
            hint = "without a file each image is evaluated on the recipe's single crop, in fp32"
            raise RecipeError(f"--{name.replace('_', '-')} needs --submission FILE or --output FILE", hint)


def _tabulate(request: TableRequest, as_json: bool) -> None:
    done = tabulate(request)
    if done is None:
        return
    if as_json:
        told = {"source": str(request.source), "images": done.num_images, "crops": done.crops}
        console.print_json({**told, "output": str(done.file), "errors": len(done.bad)})
    else:
        console.out.print(f"{counted(done.num_images, 'image')} by {request.source}, {done.crops}")
    by = done.choice.in_words() if done.choice else ""
    if by:
        console.say(f"by {by}")
    console.say(f"wrote {done.file}")
    if request.explain:
        console.say(f"drew what speaks for each answer: {request.explain}")
    _refuse_bad(done.bad, f"all images are in {done.file}, these with the reason in the column error")


def _refuse_bad(bad: Sequence[str], hint: str | None = None) -> None:
    """Raise DataError for images that cannot be decoded, each with its reason; the first ones of many are named."""
    if not bad:
        return
    more = f"\nand {len(bad) - MOST_NAMED:,} more" if hint and len(bad) > MOST_NAMED else ""
    named = bad[:MOST_NAMED] if hint else bad
    raise DataError("cannot decode " + (bad[0] if len(bad) == 1 else f"{len(bad):,} images:\n" + "\n".join(named) + more), hint)


def _submit(request: SubmissionRequest, as_json: bool) -> None:
    done = submit(request)
    if done is None:
        return
    if as_json:
        told = {"source": str(request.source), "images": len(done.names), "crops": done.crops}
        console.print_json({**told, "submission": str(done.file), "probabilities": str(done.record)})
    else:
        console.out.print(f"{counted(len(done.names), 'image')} by {request.source}, {done.crops}")
    by = done.choice.in_words() if done.choice else ""
    if by:
        console.say(f"by {by}")
    console.say(f"wrote its probabilities to {done.record}; `inceptionctl ensemble` averages several such files")


def _show(request: PredictRequest, as_json: bool) -> None:
    """The classes of each image on the screen."""
    done = predict_classes(request)
    if as_json:
        told = {"source": str(done.source), "chosen": done.choice and done.choice.to_json()}
        console.print_json({**told, "predictions": [_prediction_json(item) for item in done.predictions]})
    else:
        _print_predictions(done.predictions)
        chosen = done.choice.in_words() if done.choice else ""
        console.say(f"by {done.source}{chosen and f', {chosen}'}")
    if request.explain:
        console.say(f"drew what speaks for each answer: {request.explain}")
    _refuse_bad([f"{item.image}: {item.reason}" for item in done.predictions if item.reason])


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
        console.print_table("Most likely classes", ("image", "class", "probability"), rows, right=("probability",))
