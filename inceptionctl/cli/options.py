"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer

from inceptionctl import console
from inceptionctl.errors import RecipeError

T = TypeVar("T")

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe: --set train.epochs=10. May be repeated."),
]
RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="Bundled name or path of a recipe.")]
RunOutput = Annotated[Path | None, typer.Option(help="Run directory; runs/DATE_MODEL_FINGERPRINT by default.")]
Precision = Annotated[
    Literal["auto", "fp32", "bf16"], typer.Option(help="`auto` is bf16 where the processor computes it natively.")
]
WeightsOption = Annotated[
    Literal["ema", "raw"], typer.Option(help="Running averages of the weights, or the weights of the last step.")
]
CheckpointOption = Annotated[
    str | None,
    typer.Option(
        metavar="best|latest|STEP",
        help="Checkpoint of the run: of the lowest validation error, the newest, or by its step; the best by default where one is kept.",
    ),
]
MicroBatchOption = Annotated[
    int | None,
    typer.Option(
        min=1, help="Images of a step of each rank, which is one micro batch; the recipe's train.micro_batch_size by default."
    ),
]
ImagesAsMicroBatch = Annotated[int | None, typer.Option("--images", min=1, hidden=True)]  # as it was called before
NoData = Annotated[bool, typer.Option("--no-data", help="Leave the data set out: it is on another machine.")]
DataOption = Annotated[Path | None, typer.Option(metavar="ROOT", help="Folder with val/<class>/*; the recipe's by default.")]
ClassIdsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The label of each class in a submission: the development kit, or a text with name and number a line; ILSVRC's by default.",
    ),
]


def requested(arguments: Mapping[str, Any], kind: type[T], **read: object) -> T:
    """The request of a command's stage out of the command's `arguments`: each field is the option of that name, or what was `read` of it.

    An option that was not given leaves its field at the default.
    """
    values = {field.name: {**arguments, **read}[field.name] for field in fields(kind)}  # type: ignore[arg-type]
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items() if value is not None}
    return kind(**given)


def run_named(path: Path | None) -> Path | None:
    """A run by its path or its name under runs/, as a callback of arguments."""
    from inceptionctl.run import find_run

    return path and find_run(path)


def runs_named(paths: list[Path]) -> list[Path]:
    """The same of several."""
    from inceptionctl.run import find_run

    return [find_run(path) for path in paths]


RunArgument = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run directory, or its name under runs/.", callback=run_named)
]
ProtocolName = Literal["single", "10crop", "12crop", "144crop", "dense"]  # that of evaluate.protocols, which loads torch


def renamed(old: str, new: str, given: T | None, value: T) -> T:
    """`value` of the option `new`, or what was `given` by its name of earlier versions, which is said."""
    if given is None:
        return value
    console.warn(f"{old} is called {new} now", f"give {new}: a later version will not know {old}")
    return given


def whole_numbers(option: str, text: str, example: str, unit: str = "") -> list[int]:
    """The numbers of an option such as `--ranks 1,2`, each at least 1. Raises RecipeError."""
    words = text.split(",")
    if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise RecipeError(f"{option} {text}: not whole numbers{unit}", f"for example {option} {example}")
    return [int(word) for word in words]
