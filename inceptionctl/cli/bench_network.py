"""`inceptionctl bench evaluate`: what networks cost on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from inceptionctl import console
from inceptionctl.cli.measured import Output, Repeats, progress_of, refuse_unwritable, tell
from inceptionctl.cli.options import Json, ProtocolName, Settings
from inceptionctl.errors import RecipeError

if TYPE_CHECKING:
    from inceptionctl.data.imageset import ImageSet
    from inceptionctl.recipe.schema import Recipe

PrecisionOption = Annotated[
    Literal["auto", "fp32", "bf16"], typer.Option(help="`auto` is bf16 where the processor computes it natively.")
]


def evaluate(
    source: Annotated[
        str, typer.Argument(metavar="RECIPE|RUN", help="A recipe (its network with random weights) or a run directory.")
    ] = "inception_v4",
    settings: Settings = None,
    folder: Annotated[
        Path | None,
        typer.Option("--data", metavar="FOLDER", help="Photographs to take, from anywhere below; else the validation images."),
    ] = None,
    protocol: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="As of `evaluate`; may be repeated; 144crop by default.")
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Pictures of each kind, square and other.")] = 16,
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
    from inceptionctl.recipe import load_recipe

    is_run = Path(source).is_dir()
    if is_run and settings:
        raise RecipeError("--set changes a recipe, and a run keeps its own", "name the recipe, or leave --set out")
    loaded = None if is_run else load_recipe(source, settings or ())
    sizes, protocols = _numbers(batch_sizes), _protocols(protocol or ["144crop"])
    refuse_unwritable(output)

    from inceptionctl.bench.evaluate import bench_evaluate, pictures_by_kind
    from inceptionctl.bench.machine import facts
    from inceptionctl.evaluate.machine import claim_machine
    from inceptionctl.evaluate.subject import subject_of, untrained_subject
    from inceptionctl.evaluate.trained import load_trained
    from inceptionctl.train.precision import resolve_precision

    machine = claim_machine()
    computed = resolve_precision(precision, machine.device)
    if loaded:
        recipe, subject = loaded, untrained_subject(loaded, computed, machine.device)
    else:
        trained = load_trained(Path(source), "ema", machine.device)
        recipe, subject = trained.recipe, subject_of(trained, computed, machine.device)
    kinds, left_out = pictures_by_kind(_pictures(folder, recipe), images)
    about = facts(("inceptionctl", "torch", "nvidia-dali-cuda130", "numpy", "pillow"))
    with progress_of("measuring") as progress:
        figures, chosen, difference = bench_evaluate(
            subject,
            kinds,
            protocols,
            batch_sizes=sizes,
            repeats=repeats,
            num_threads=machine.num_threads,
            decode=machine.decode(recipe.data.decode),
            progress=progress,
        )
    measured = {"source": source, "settings": settings or [], "network": subject.network, "precision": subject.precision}
    counts = {
        "device": subject.device.type,
        "images": {kind: len(found) for kind, found in kinds.items()},
        "batch_sizes": chosen,
    }
    result = {"bench": "evaluate", **about, **measured, **counts, "largest_difference": difference, "left_out": left_out}
    tell(result, figures, output, as_json)
    if not as_json:
        best = ", ".join(f"{way}: {size}" for way, size in chosen.items())
        console.say(f"best batch sizes: {best}; the two ways' probabilities differ by at most {difference:.1e}")


def _numbers(text: str) -> list[int]:
    words = text.split(",")
    if not all(word.strip().isdigit() and int(word) > 0 for word in words):
        raise RecipeError(f"--batch-sizes {text}: not whole numbers", "for example --batch-sizes 4,8,16")
    return [int(word) for word in words]


def _protocols(names: list[str]) -> list[ProtocolName]:
    known: tuple[ProtocolName, ...] = get_args(ProtocolName)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise RecipeError(f"no protocol {unknown[0]}", f"one of {', '.join(known)}")
    return [name for name in known if name in names]


def _pictures(folder: Path | None, recipe: Recipe) -> ImageSet:
    from inceptionctl.bench.photographs import images_below
    from inceptionctl.data.dataset import open_split
    from inceptionctl.evaluate.images import folder_of

    if folder:
        return folder_of(images_below(folder))
    root = recipe.data.root_path
    return open_split(root, "val", **recipe.data.sources(root))
