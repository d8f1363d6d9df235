"""`inceptionctl evaluate`: the errors of a trained network by the protocols of the paper's tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from inceptionctl import console
from inceptionctl.cli.options import (
    CheckpointOption,
    CpuRanks,
    DataOption,
    Gpus,
    Json,
    Precision,
    WeightsOption,
    requested,
    run_named,
    shorter_sides,
    start_ranks,
)
from inceptionctl.protocols import ProtocolName
from inceptionctl.words import counted, error_and_accuracy, has_top5

if TYPE_CHECKING:
    from inceptionctl.evaluate.results import ClassFigures, Confused, MacroAverage, ResultWithReal, Thresholds
    from inceptionctl.train.checkpoint_choice import Choice

MAX_TABLE_CLASSES = 20
MAX_PAIRS_SHOWN = 20
FIGURES_SHOWN = ("precision", "recall", "F1", "ROC AUC")
RATES = ("error %", "accuracy %")  # last columns of the confusion


def evaluate(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|CHECKPOINT|EXPORT",
            help="A run directory or its name under runs/, a checkpoint folder (also of `weights import`), or an exported file.",
            callback=run_named,
        ),
    ],
    protocol: Annotated[
        ProtocolName,
        typer.Option(
            help="Crops per image: the recipe's single one, AlexNet's 10, or 12 or 144 as in GoogLeNet; `dense` takes whole images."
        ),
    ] = "single",
    scales: Annotated[
        str | None,
        typer.Option(metavar="PX,...", help="Shorter sides that images are resized to; those of the protocol by default."),
    ] = None,
    weights: WeightsOption = "ema",
    checkpoint: CheckpointOption = None,
    every: Annotated[bool, typer.Option("--all", help="Evaluate every checkpoint of the run.")] = False,
    data: DataOption = None,
    subset: Annotated[
        Literal["all", "non-blacklisted"],
        typer.Option(help="`non-blacklisted` leaves out the images that --blacklist lists, as the paper does."),
    ] = "all",
    blacklist: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="ImageNet's blacklist, from the development kit; by default the recipe's, or the one in the data root.",
        ),
    ] = None,
    real_labels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="real.json of ImageNet ReaL: also report the error against its labels.")
    ] = None,
    precision: Precision = "auto",
    batch_size: Annotated[int | None, typer.Option(min=1, help="Crops per batch; the recipe's by default.")] = None,
    gpus: Gpus = None,
    cpu_ranks: CpuRanks = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSON file to write, with a .parquet next to it; in RUN/evaluations by default."),
    ] = None,
    show_crops: Annotated[
        Path | None, typer.Option(metavar="IMAGE", help="Draw the crops of an image into crops.png (or --output), and exit.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure the errors of a trained network on the validation images.

    Rerun the same command to resume an interrupted evaluation. Under torchrun or srun it is one rank of the job.
    """
    from inceptionctl.stages.evaluate import EvaluateRequest, check, draw, evaluations

    request = requested(locals(), EvaluateRequest, scales=shorter_sides(scales, protocol))
    if show_crops:
        picture = draw(request, show_crops)
        if as_json:
            console.print_json({"source": str(source), "image": str(show_crops), "protocol": protocol, "picture": str(picture)})
        return
    request = check(request)
    if start_ranks(gpus, cpu_ranks):
        return
    results = []
    for one in evaluations(request):
        results.append(one.result)
        if not as_json:
            _print_evaluation(one.result, one.choice)
        if one.file:
            console.say(f"wrote {one.file} and {one.file.with_suffix('.parquet').name}")
    if as_json and results:
        console.print_json(results if every else results[0])


def _with_interval(error: float, interval: Sequence[float]) -> str:
    low, high = interval
    return f"{error:.2f}% (95%: {low:.2f} to {high:.2f}), accuracy {100.0 - error:.2f}%"


def _print_evaluation(result: ResultWithReal, choice: Choice | None) -> None:
    pairs = {
        "checkpoint": result["checkpoint"],
        "chosen": choice and choice.in_words(),
        "weights": f"{result['weights']} at step {result['step']}",
        "images": f"{result['num_images']} of {result['data_root']}, {result['subset']}",
        "protocol": result["preparation"],
        "top-1 error": _with_interval(result["top1_error"], result["top1_error_interval"]),
    }
    top5, interval = result["top5_error"], result["top5_error_interval"]
    if top5 is not None and interval and has_top5(len(result["classes"])):
        pairs["top-5 error"] = _with_interval(top5, interval)
    if "real_top1_error" in result:
        of = counted(result["real_num_images"], "image")
        pairs["ReaL top-1 error"] = f"{error_and_accuracy(result['real_top1_error'])}, of {of}"
    speed = f"{result['images_per_second']:.1f} images/s in {result['precision']} ({console.duration(result['seconds'])})"
    pairs |= {
        "loss": f"{result['loss']:.4f}",
        "calibration": f"expected error {result['calibration_error']:.2f}%",
        "macro average": ", ".join(map(" ".join, zip(FIGURES_SHOWN, _four(result["macro_average"]), strict=True))),
        **_thresholds(result["thresholds"]),
        "speed": speed,
    }
    console.print_pairs("Evaluation", [(name, value) for name, value in pairs.items() if value])
    console.out.print()
    classes, matrix = result["classes"], _matrix(result)
    if matrix and len(classes) <= MAX_TABLE_CLASSES and _matrix_fits(classes, matrix):
        _print_matrix(result, matrix)
    else:
        _print_confused(result, matrix)
    console.out.print()
    _print_classes(result)


def _four(figures: ClassFigures | MacroAverage) -> list[str]:
    values = (figures["precision"], figures["recall"], figures["f1"], figures["roc_auc"])
    return ["-" if value is None else f"{value:.3f}" for value in values]


def _thresholds(found: Thresholds | None) -> dict[str, str]:
    if found is None:
        return {}
    best, equal, name = found["max_f1"], found["equal_error"], found["positive_class"]
    rates = f"{100 * equal['false_positive_rate']:.2f}% and {100 * equal['false_negative_rate']:.2f}%"
    return {
        "maximal F1": f"{best['f1']:.3f}, if {name} is predicted from a probability of {best['threshold']:.4f}",
        "equal error": f"false positive and negative rate {rates}, if {name} is predicted from {equal['threshold']:.4f}",
    }


def _print_classes(result: ResultWithReal) -> None:
    """All classes, or those of the lowest F1 where there are many."""
    each, title = result["per_class"], "Classes"
    names = [name for name, figures in each.items() if figures["f1"] is not None]
    lacking = [name for name in each if each[name]["f1"] is None]
    if len(each) > MAX_TABLE_CLASSES:
        names = sorted(names, key=lambda name: each[name]["f1"] or 0.0)[:MAX_TABLE_CLASSES]
        title, lacking = f"The {len(names)} of {len(each):,} classes with the lowest F1", []
    rows = [
        (name, each[name]["num_images"], *_rates(each[name]["top1_error"]), *_four(each[name])) for name in (*names, *lacking)
    ]
    numbers = ("images", *RATES, *FIGURES_SHOWN)
    console.print_table(title, ("class", *numbers), rows, right=numbers)


def _matrix(result: ResultWithReal) -> list[list[int]] | None:
    """None where the result has pairs of classes instead."""
    confusion = result["confusion"]
    return confusion if confusion and isinstance(confusion[0], list) else None


def _short_names(classes: Sequence[str]) -> list[str]:
    """Column heads: the names, or their positions where the names would not fit beside each other."""
    room = console.out.width - max(map(len, classes)) - len("".join(RATES)) - 6
    return list(classes) if sum(len(name) + 2 for name in classes) <= room else [str(i) for i in range(len(classes))]


def _matrix_fits(classes: Sequence[str], matrix: list[list[int]]) -> bool:
    heads = _short_names(classes)
    widths = [max(len(head), *(len(str(row[i])) for row in matrix)) + 2 for i, head in enumerate(heads)]
    return sum(widths) + max(map(len, classes)) + len(str(len(classes))) + len("".join(RATES)) + 6 <= console.out.width


def _print_matrix(result: ResultWithReal, matrix: list[list[int]]) -> None:
    classes = result["classes"]
    heads = _short_names(classes)
    numbered = heads != classes
    rows = [
        (f"{i} {name}" if numbered else name, *row, *_rates(result["per_class"][name]["top1_error"]))
        for i, (name, row) in enumerate(zip(classes, matrix, strict=True))
    ]
    title = "Confusion: rows are the true class, columns the prediction"
    console.print_table(title, ("true class", *heads, *RATES), rows, right=(*heads, *RATES))


def _rates(error: float | None) -> tuple[str, str]:
    """Error and accuracy in percent; neither is known of a class without images."""
    return ("-", "-") if error is None else (f"{error:.1f}", f"{100.0 - error:.1f}")


def _print_confused(result: ResultWithReal, matrix: list[list[int]] | None) -> None:
    pairs = cast("list[Confused]", result["confusion"])
    if matrix:
        from torch import tensor

        from inceptionctl.evaluate.evaluation import most_confused

        pairs = most_confused(tensor(matrix), result["classes"])
    if not pairs:
        typer.echo("No image was misclassified.")
        return
    rows = [(pair["true"], pair["predicted"], pair["count"]) for pair in pairs[:MAX_PAIRS_SHOWN]]
    console.print_table("Classes confused most often", ("true class", "predicted as", "images"), rows, right=("images",))
