"""Options that several commands share, and how they are read."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer

from inceptionctl import console
from inceptionctl.errors import RanksEndedError, RecipeError
from inceptionctl.protocols import ProtocolName

T = TypeVar("T")

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the recipe: --set train.epochs=10. May be repeated."),
]
RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="Bundled name or path of a recipe.")]
RunOutput = Annotated[Path | None, typer.Option(help="Run directory; runs/DATE_MODEL_FINGERPRINT by default.")]
Precision = Annotated[
    Literal["auto", "fp32", "bf16"], typer.Option(help="`auto` is bf16 where the hardware supports it natively.")
]
WeightsOption = Annotated[Literal["ema", "raw"], typer.Option(help="EMA of the weights, or the raw weights of the last step.")]
CheckpointOption = Annotated[
    str | None,
    typer.Option(
        metavar="best|latest|STEP",
        help="Checkpoint of the run: lowest validation error, newest, or by its step; by default what its recipe's evaluate.checkpoint says.",
    ),
]
MicroBatchOption = Annotated[
    int | None,
    typer.Option(
        min=1, help="Images per rank in one step, which is one micro batch; the recipe's train.micro_batch_size by default."
    ),
]
Gpus = Annotated[
    int | None, typer.Option(min=1, help="GPUs of this machine to use; by default training takes all, evaluation the first.")
]
CpuRanks = Annotated[int | None, typer.Option(min=1, help="Run on the CPU, with this many ranks.")]
ImagesAsMicroBatch = Annotated[int | None, typer.Option("--images", min=1, hidden=True)]  # its old name
NoData = Annotated[bool, typer.Option("--no-data", help="Skip the data set, because it is on another machine.")]
DataOption = Annotated[
    Path | None, typer.Option(metavar="ROOT", help="Root of the data set, with val/<class>/*; the recipe's by default.")
]
ClassIdsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Label numbers of the classes: the development kit, or a text file with a name and a number per line; ILSVRC's by default.",
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


def renamed(old: str, new: str, given: T | None, value: T) -> T:
    """`value` of the option `new`, or what was `given` under its old name, with a warning."""
    if given is None:
        return value
    console.warn(f"{old} was renamed to {new}", f"use {new}; a later version will drop {old}")
    return given


def whole_numbers(option: str, text: str, example: str, unit: str = "") -> list[int]:
    """The numbers of an option such as `--ranks 1,2`, each at least 1. Raises RecipeError."""
    words = [word.strip() for word in text.split(",")]
    if not all(re.fullmatch(r"[1-9][0-9]{0,5}", word) for word in words):
        raise RecipeError(f"{option} {text}: not whole numbers{unit} from 1 to 999,999", f"for example {option} {example}")
    return [int(word) for word in words]


def shorter_sides(scales: str | None, protocol: ProtocolName) -> tuple[int, ...] | None:
    """The numbers of --scales, in px. Raises RecipeError."""
    if scales is None:
        return None
    if protocol == "single":
        raise RecipeError("--scales does not apply to the recipe's single crop", "add --protocol, or leave --scales out")
    return tuple(whole_numbers("--scales", scales, "342,384,427,470", " of px"))


def start_ranks(gpus: int | None, cpu_ranks: int | None) -> bool:
    """Run this command as ranks of this machine, if any are asked for, and wait for them; returns whether it did.

    Raises RecipeError where this process is one rank already, RanksEndedError when the ranks end with an error.
    """
    from inceptionctl.distributed.local import choose_ranks, launch
    from inceptionctl.distributed.world import refuse_own_ranks, world_from_environment

    world = world_from_environment()
    refuse_own_ranks(world, gpus, cpu_ranks)
    if world is not None or not (gpus or cpu_ranks):
        return False
    code = launch(choose_ranks(gpus, cpu_ranks), sys.argv[1:], None)
    if code:
        raise RanksEndedError(code)
    return True
