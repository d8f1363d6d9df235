"""`inceptionctl evaluate`: the errors of a trained network by the protocols of the paper's tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from inceptionctl import console
from inceptionctl.cli.answering import answering, folder_of_parts, join_ranks, shorter_sides, start_ranks
from inceptionctl.cli.options import CheckpointOption, DataOption, Json, ProtocolName, WeightsOption, run_named
from inceptionctl.cli.sources import refuse_missing_data, refuse_missing_files, refuse_missing_network
from inceptionctl.errors import RecipeError
from inceptionctl.words import counted, error_and_accuracy, has_top5

if TYPE_CHECKING:
    from inceptionctl.evaluate.evaluation import Work
    from inceptionctl.evaluate.imagenet import Subset
    from inceptionctl.evaluate.machine import Machine
    from inceptionctl.evaluate.results import Confused, RealErrors, ResultWithReal
    from inceptionctl.evaluate.running import Done, Ranks
    from inceptionctl.evaluate.subject import Subject
    from inceptionctl.recipe.schema import Recipe
    from inceptionctl.train.checkpoint_choice import Choice

MOST_TABLE_CLASSES = 20
MOST_PAIRS_SHOWN = 20
DEFAULT_BATCH_SIZE = 32  # of an export that lies in no run


def evaluate(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|CHECKPOINT|EXPORT",
            help="A run directory or its name under runs/, a folder checkpoints/step-... in one, one of `weights import`, or an exported file.",
            callback=run_named,
        ),
    ],
    protocol: Annotated[
        ProtocolName,
        typer.Option(help="Crops of an image: the recipe's one, AlexNet's 10, these and the whole square, GoogLeNet's 144."),
    ] = "single",
    scales: Annotated[
        str | None,
        typer.Option(metavar="PX,...", help="Shorter sides that images are resized to; by default as the sources do."),
    ] = None,
    weights: WeightsOption = "ema",
    checkpoint: CheckpointOption = None,
    every: Annotated[bool, typer.Option("--all", help="Every checkpoint of the run, one after the other.")] = False,
    data: DataOption = None,
    subset: Annotated[
        Literal["all", "non-blacklisted"],
        typer.Option(help="ImageNet without the images that --blacklist lists, as in the paper."),
    ] = "all",
    blacklist: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The development kit's list; by default the recipe's, or the one that lies in the data root."
        ),
    ] = None,
    real_labels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="real.json of ImageNet ReaL: give the error by its labels too.")
    ] = None,
    precision: Annotated[
        Literal["auto", "fp32", "bf16"], typer.Option(help="`auto` is bf16 where the processor computes it natively.")
    ] = "auto",
    batch_size: Annotated[int | None, typer.Option(min=1, help="Crops at once; the recipe's by default.")] = None,
    gpus: Annotated[int | None, typer.Option(min=1, help="GPUs of this machine to evaluate on; the first by default.")] = None,
    cpu_ranks: Annotated[int | None, typer.Option(min=1, help="Evaluate on the CPU with this many processes.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSON file to write, a .parquet beside it; in RUN/evaluations by default."),
    ] = None,
    show_crops: Annotated[
        Path | None, typer.Option(metavar="IMAGE", help="Draw the crops of an image into crops.png (or --output), and stop.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure the errors of a trained network on the validation images.

    An interrupted evaluation goes on where it was when the same command is given again. Under torchrun or srun it is one rank of the job.
    """
    from inceptionctl.launch.signals import stoppable
    from inceptionctl.launch.world import refuse_own_ranks, world_from_environment

    world, sides = world_from_environment(), shorter_sides(scales, protocol)
    refuse_own_ranks(world, gpus, cpu_ranks)
    if every and output:
        raise RecipeError("--all writes a file for each checkpoint, and --output names one", "leave one of the two out")
    if every and checkpoint:
        raise RecipeError(f"--all takes every checkpoint, and --checkpoint {checkpoint} names one", "leave one of the two out")
    refuse_missing_network(source, checkpoint)
    refuse_missing_data(data)
    refuse_missing_files(blacklist=blacklist, real_labels=real_labels, show_crops=show_crops)
    if show_crops:
        picture = output or Path("crops.png")
        _draw(source, protocol, sides, show_crops, picture)
        if as_json:
            console.print_json({"source": str(source), "image": str(show_crops), "protocol": protocol, "picture": str(picture)})
        return
    if world is None and (gpus or cpu_ranks):
        start_ranks(gpus, cpu_ranks)
        return
    with stoppable("within the evaluation; what was answered is kept"):
        machine, ranks = join_ranks(world)
        results = []
        for one in _checkpoints(source) if every else [source]:
            subject, recipe, stem = _open(one, weights, checkpoint, precision, machine)
            work = _work(subject, recipe, data, protocol, sides, batch_size, machine)
            work = _of_subset(work, subset, blacklist or (recipe.evaluate.blacklist_path if recipe else None))
            name = protocol if subset == "all" else f"{protocol}_{subset}"
            file = output or (stem and stem.with_name(f"{stem.name}_{name}.json"))
            results.append(_run(work, ranks, file, real_labels, as_json))
    if as_json and ranks.rank == 0:
        console.print_json(results if every else results[0])


def _checkpoints(source: Path) -> list[Path]:
    """Every checkpoint of a run, the oldest first."""
    from inceptionctl.run import open_run
    from inceptionctl.train.checkpoint_files import list_checkpoints

    return list_checkpoints(open_run(source).checkpoints)


def _open(
    source: Path,
    weights: Literal["ema", "raw"],
    checkpoint: str | None,
    precision: Literal["auto", "fp32", "bf16"],
    machine: Machine,
) -> tuple[Subject, Recipe | None, Path | None]:
    """(what answers, the recipe that it was trained by, where in its run results belong without the protocol's name)."""
    from inceptionctl.evaluate.subject import subject_of
    from inceptionctl.evaluate.trained import load_trained
    from inceptionctl.run import Run, is_run, located
    from inceptionctl.train.precision import resolve_precision

    if not source.is_file():
        trained = load_trained(source, weights, machine.device, checkpoint)
        subject = subject_of(trained, resolve_precision(precision, machine.device), machine.device)
        stem = trained.run.evaluations / f"step-{trained.step:08d}_{weights}" if trained.run else None
        return subject, trained.recipe, stem
    from inceptionctl.export.opening import refuse_choice, subject_of_export

    refuse_choice(source, checkpoint)
    subject = subject_of_export(source)
    run = Run(source.parent.parent) if is_run(source.parent.parent) else None
    # model_pixels_int8.onnx -> ..._onnx_pixels_int8
    variant = "_".join([source.suffix[1:], *source.stem.split("_")[1:]])
    name = f"step-{subject.step:08d}_{subject.weights}_{variant}"
    return subject, located(run.recipe(), run) if run else None, run.evaluations / name if run else None


def _work(
    subject: Subject,
    recipe: Recipe | None,
    data: Path | None,
    name: ProtocolName,
    sides: list[int] | None,
    batch_size: int | None,
    machine: Machine,
) -> Work:
    from inceptionctl.data.dataset import open_split
    from inceptionctl.evaluate.evaluation import Work, check_classes
    from inceptionctl.evaluate.protocols import make_protocol
    from inceptionctl.evaluate.subject import check_protocol
    from inceptionctl.recipe.data_section import DataSection

    if recipe is None and data is None:
        raise RecipeError(
            f"{subject.source} lies in no run directory, so its images are not known", "name them with --data ROOT"
        )
    check_protocol(subject, name)
    root = data or (recipe.data.root_path if recipe else Path())
    images = open_split(root, "val", **(recipe.data.sources(root) if recipe else {}))
    check_classes(images, subject.classes, subject.source)
    return Work(
        subject,
        images,
        None if name == "single" else make_protocol(name, subject.preparation.input_px, sides),
        batch_size or (recipe.evaluate.batch_size if recipe else DEFAULT_BATCH_SIZE),
        machine.loading(recipe.data if recipe else DataSection(), subject.device),
    )


def _of_subset(work: Work, subset: Subset, blacklist: Path | None) -> Work:
    import dataclasses

    from inceptionctl.evaluate.imagenet import subset_of

    return dataclasses.replace(work, images=subset_of(work.images, subset, blacklist), subset=subset)


def _run(work: Work, ranks: Ranks, file: Path | None, real_labels: Path | None, as_json: bool) -> ResultWithReal | None:
    """Evaluate, write and print; rank 0 gets the result."""
    from inceptionctl.evaluate.evaluation import write_probabilities, write_result
    from inceptionctl.evaluate.running import run_evaluation

    speaks = ranks.rank == 0
    if file is None and ranks.size > 1:
        raise RecipeError(
            f"{work.subject.source} lies in no run directory, where ranks could meet", "name a file with --output"
        )
    with folder_of_parts(file) as folder:
        with answering(ranks, "evaluating") as show:
            done = run_evaluation(work, folder, ranks, on_progress=show, say=console.say if speaks else lambda text: None)
        if done is None:
            return None
        real: RealErrors = _real_errors(work, done, real_labels) if real_labels else {}
        result: ResultWithReal = {**done.result, **real}
        if file:
            write_result(result, file)
            write_probabilities(work, done.probabilities, result, file.with_suffix(".parquet"))
        done.parts.remove()
    if not as_json:
        _print_evaluation(result, work.subject.choice)
    if file:
        console.say(f"wrote {file} and {file.with_suffix('.parquet').name}")
    return result


def _real_errors(work: Work, done: Done, file: Path) -> RealErrors:
    import torch

    from inceptionctl.evaluate.imagenet import real_errors

    return real_errors(work.images, torch.from_numpy(done.probabilities).argmax(1), file)


def _draw(source: Path, name: ProtocolName, sides: list[int] | None, image: Path, file: Path) -> None:
    import torch

    from inceptionctl.evaluate.drawing import draw_crops
    from inceptionctl.evaluate.preparation import preparation_of
    from inceptionctl.evaluate.protocols import make_protocol
    from inceptionctl.evaluate.trained import load_trained
    from inceptionctl.export.opening import subject_of_export

    cpu = torch.device("cpu")
    preparation = (
        subject_of_export(source).preparation if source.is_file() else preparation_of(load_trained(source, "ema", cpu).recipe)
    )
    protocol = None if name == "single" else make_protocol(name, preparation.input_px, sides)
    draw_crops(image, protocol, preparation, file)
    console.say(f"wrote {file}")


def _real_row(result: ResultWithReal) -> list[tuple[str, str]]:
    if "real_top1_error" not in result:
        return []
    found = f"{error_and_accuracy(result['real_top1_error'])}, of {counted(result['real_num_images'], 'image')}"
    return [("ReaL top-1 error", found)]


def _with_interval(error: float, interval: Sequence[float]) -> str:
    low, high = interval
    return f"{error:.2f}% (95%: {low:.2f} to {high:.2f}), accuracy {100.0 - error:.2f}%"


def _print_evaluation(result: ResultWithReal, choice: Choice | None) -> None:
    chosen = choice.in_words() if choice else ""
    top5 = _with_interval(result["top5_error"], result["top5_error_interval"])
    pairs = (
        ("checkpoint", result["checkpoint"]),
        *([("chosen", chosen)] if chosen else []),
        ("weights", f"{result['weights']} at step {result['step']}"),
        ("images", f"{result['num_images']} of {result['data_root']}, {result['subset']}"),
        ("protocol", result["preparation"]),
        ("top-1 error", _with_interval(result["top1_error"], result["top1_error_interval"])),
        *([("top-5 error", top5)] if has_top5(len(result["classes"])) else []),
        *_real_row(result),
        ("loss", f"{result['loss']:.4f}"),
        ("calibration", f"expected error {result['calibration_error']:.2f}%"),
        (
            "speed",
            f"{result['images_per_second']:.1f} images/s in {result['precision']} ({console.duration(result['seconds'])})",
        ),
    )
    console.print_pairs("Evaluation", pairs)
    console.out.print()
    classes, matrix = result["classes"], _matrix(result)
    if matrix and len(classes) <= MOST_TABLE_CLASSES and _matrix_fits(classes, matrix):
        _print_matrix(result, matrix)
    else:
        _print_confused(result, matrix)


def _matrix(result: ResultWithReal) -> list[list[int]] | None:
    """None where the result has pairs of classes instead."""
    confusion = result["confusion"]
    return confusion if confusion and isinstance(confusion[0], list) else None


def _short_names(classes: Sequence[str]) -> list[str]:
    """Column heads: the names, or their positions where the names would not fit beside each other."""
    room = console.out.width - max(map(len, classes)) - len("error %") - 4
    return list(classes) if sum(len(name) + 2 for name in classes) <= room else [str(i) for i in range(len(classes))]


def _matrix_fits(classes: Sequence[str], matrix: list[list[int]]) -> bool:
    heads = _short_names(classes)
    widths = [max(len(head), *(len(str(row[i])) for row in matrix)) + 2 for i, head in enumerate(heads)]
    return sum(widths) + max(map(len, classes)) + len(str(len(classes))) + len("error %") + 4 <= console.out.width


def _print_matrix(result: ResultWithReal, matrix: list[list[int]]) -> None:
    classes = result["classes"]
    heads = _short_names(classes)
    numbered = heads != classes
    rows = [
        (f"{i} {name}" if numbered else name, *row, "-" if sum(row) == 0 else f"{result['per_class'][name]['top1_error']:.1f}")
        for i, (name, row) in enumerate(zip(classes, matrix, strict=True))
    ]
    title = "Confusion: rows are the true class, columns the prediction"
    console.print_table(title, ("true class", *heads, "error %"), rows, right=(*heads, "error %"))


def _print_confused(result: ResultWithReal, matrix: list[list[int]] | None) -> None:
    pairs = cast("list[Confused]", result["confusion"])
    if matrix:
        from torch import tensor

        from inceptionctl.evaluate.evaluation import most_confused

        pairs = most_confused(tensor(matrix), result["classes"])
    if not pairs:
        typer.echo("No image was taken for another class.")
        return
    rows = [(pair["true"], pair["predicted"], pair["count"]) for pair in pairs[:MOST_PAIRS_SHOWN]]
    console.print_table("Classes confused most often", ("true class", "taken for", "images"), rows, right=("images",))
