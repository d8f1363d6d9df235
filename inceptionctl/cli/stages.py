"""`inceptionctl evaluate`, `export` and `predict`: what is done with a trained network."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from inceptionctl import console
from inceptionctl.cli.options import Json
from inceptionctl.errors import DataError, RecipeError

if TYPE_CHECKING:
    from inceptionctl.evaluate.predict import Prediction
    from inceptionctl.export.checking import Sample

MOST_TABLE_CLASSES = 20
MOST_PAIRS_SHOWN = 20


class Format(StrEnum):
    """File formats of `export`; an enumeration because Typer takes no list of literals."""

    ONNX = "onnx"
    SAFETENSORS = "safetensors"
    PT2 = "pt2"
    TIMM = "timm"


Source = Annotated[
    Path,
    typer.Argument(
        metavar="RUN|CHECKPOINT", help="A run directory, a folder checkpoints/step-... in one, or one of `weights import`."
    ),
]
WeightsOption = Annotated[
    Literal["ema", "raw"], typer.Option(help="Running averages of the weights, or the weights of the last step.")
]
CheckpointOption = Annotated[
    Literal["latest", "best"],
    typer.Option(help="Which checkpoint of the run: the newest, or that of the lowest validation error."),
]
DataOption = Annotated[Path | None, typer.Option(metavar="ROOT", help="Folder with val/<class>/*; the recipe's by default.")]


def evaluate(
    source: Source,
    weights: WeightsOption = "ema",
    checkpoint: CheckpointOption = "latest",
    data: DataOption = None,
    precision: Annotated[
        Literal["auto", "fp32", "bf16"], typer.Option(help="`auto` is bf16 where the processor computes it natively.")
    ] = "auto",
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images at once; the recipe's by default.")] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON file to write; one in RUN/evaluations by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure the errors of a trained network on the validation images: one central crop an image."""
    from inceptionctl.evaluate.evaluation import evaluate as evaluate_trained
    from inceptionctl.evaluate.evaluation import result_file, write_result
    from inceptionctl.evaluate.machine import claim_machine
    from inceptionctl.evaluate.trained import load_trained
    from inceptionctl.train.precision import resolve_precision

    machine = claim_machine()
    trained = load_trained(source, weights, machine.device, checkpoint)
    recipe = trained.recipe
    with console.progress_bar() as bar:
        task = bar.add_task("evaluating", total=None)
        result = evaluate_trained(
            trained,
            data or recipe.data.root_path,
            precision=resolve_precision(precision, machine.device),
            batch_size=batch_size or recipe.evaluate.batch_size,
            device=machine.device,
            num_threads=recipe.data.num_threads or machine.num_threads,
            decode=machine.decode(recipe.data.decode),
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    file = output or result_file(trained)
    if file:
        write_result(result, file)
    if as_json:
        console.print_json(result)
    else:
        _print_evaluation(result)
    if file:
        console.say(f"wrote {file}")


def _print_evaluation(result: dict[str, Any]) -> None:
    pairs = (
        ("checkpoint", result["checkpoint"]),
        ("weights", f"{result['weights']} at step {result['step']}"),
        ("images", f"{result['num_images']} of {result['data_root']}"),
        ("protocol", result["preparation"]),
        ("top-1 error", f"{result['top1_error']:.2f}%"),
        ("top-5 error", f"{result['top5_error']:.2f}%"),
        ("loss", f"{result['loss']:.4f}"),
        (
            "speed",
            f"{result['images_per_second']:.1f} images/s in {result['precision']} ({console.duration(result['seconds'])})",
        ),
    )
    console.print_pairs("Evaluation", pairs)
    console.out.print()
    classes: list[str] = result["classes"]
    if len(classes) <= MOST_TABLE_CLASSES and _matrix_fits(classes, result["confusion"]):
        _print_matrix(result)
    else:
        _print_confused(result)


def _short_names(classes: Sequence[str]) -> list[str]:
    """Column heads: the names, or their positions where the names would not fit beside each other."""
    room = console.out.width - max(map(len, classes)) - len("error %") - 4
    return list(classes) if sum(len(name) + 2 for name in classes) <= room else [str(i) for i in range(len(classes))]


def _matrix_fits(classes: Sequence[str], matrix: list[list[int]]) -> bool:
    heads = _short_names(classes)
    widths = [max(len(head), *(len(str(row[i])) for row in matrix)) + 2 for i, head in enumerate(heads)]
    return sum(widths) + max(map(len, classes)) + len(str(len(classes))) + len("error %") + 4 <= console.out.width


def _print_matrix(result: dict[str, Any]) -> None:
    classes: list[str] = result["classes"]
    heads = _short_names(classes)
    numbered = heads != classes
    rows = [
        (f"{i} {name}" if numbered else name, *row, f"{result['per_class'][name]['top1_error']:.1f}")
        for i, (name, row) in enumerate(zip(classes, result["confusion"], strict=True))
    ]
    title = "Confusion: rows are the true class, columns the prediction"
    console.print_table(title, ("true class", *heads, "error %"), rows, right=(*heads, "error %"))


def _print_confused(result: dict[str, Any]) -> None:
    pairs = result["confusion"]
    if pairs and isinstance(pairs[0], list):
        from torch import tensor

        from inceptionctl.evaluate.evaluation import most_confused

        pairs = most_confused(tensor(pairs), result["classes"])
    if not pairs:
        typer.echo("No image was taken for another class.")
        return
    rows = [(pair["true"], pair["predicted"], pair["count"]) for pair in pairs[:MOST_PAIRS_SHOWN]]
    console.print_table("Classes confused most often", ("true class", "taken for", "images"), rows, right=("images",))


def export(
    source: Source,
    formats: Annotated[
        list[Format] | None,
        typer.Option("--format", help="May be repeated; the recipe's export.formats by default."),
    ] = None,
    weights: WeightsOption = "ema",
    checkpoint: CheckpointOption = "latest",
    data: Annotated[
        Path | None, typer.Option(metavar="ROOT", help="Folder with val/<class>/* to compare on; the recipe's by default.")
    ] = None,
    output: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for the files; RUN/export by default.")] = None,
    as_json: Json = False,
) -> None:
    """Write a trained network as files for other programs, each compared with the checkpoint first.

    An earlier export in the same place is replaced.
    """
    import torch

    from inceptionctl.evaluate.machine import claim_machine
    from inceptionctl.evaluate.trained import load_trained
    from inceptionctl.export.checking import draw_sample
    from inceptionctl.export.exporting import export as export_trained

    machine = claim_machine()
    # On the CPU: exports are traced and compared in fp32, which GPUs round to TF32 in convolutions.
    trained = load_trained(source, weights, torch.device("cpu"), checkpoint)
    folder = output or (trained.run.export if trained.run else None)
    if folder is None:
        raise RecipeError(
            f"{trained.checkpoint} lies in no run directory, so there is no export folder", "name one with --output DIR"
        )
    sample = draw_sample(trained, data or trained.recipe.data.root_path, machine.num_threads)
    done = export_trained(
        trained,
        [kind.value for kind in formats or ()] or trained.recipe.export.formats,
        folder,
        sample,
        lambda name: console.say(f"exporting {name} ..."),
    )
    result = {
        "checkpoint": str(trained.checkpoint),
        "weights": trained.weights,
        "step": trained.step,
        "folder": str(folder),
        "compared_on": sample.source,
        "logit_spread": sample.logit_spread,
        "exports": [
            {
                "format": item.format,
                "path": str(item.path),
                "bytes": item.num_bytes,
                "max_difference": item.max_difference,
                "seconds": item.seconds,
                "remarks": list(item.remarks),
            }
            for item in done
        ],
    }
    _print_exports(result, sample, as_json)


def _print_exports(result: dict[str, Any], sample: Sample, as_json: bool) -> None:
    if as_json:
        console.print_json(result)
    else:
        rows = [
            (
                str(Path(item["path"]).relative_to(result["folder"])),
                console.size(item["bytes"]),
                f"{item['max_difference']:.1e}",
                f"{item['seconds']:.1f}",
            )
            for item in result["exports"]
        ]
        columns = ("file", "size", "largest difference", "seconds")
        console.print_table(f"Exports of {result['checkpoint']}, {result['weights']} weights", columns, rows, right=columns[1:])
        console.out.print(
            f"difference: of a logit from the checkpoint's in fp32, on {sample.source};"
            f" between these images a logit differs by up to {sample.logit_spread:.3g}"
        )
        for item in result["exports"]:
            for remark in item["remarks"]:
                console.out.print(f"{item['format']}: {remark}")
    console.say(f"wrote {result['folder']}")
    if not sample.tells:
        console.warn(
            f"the logits hardly differ between images (by {sample.logit_spread:.1e}), so the comparison says little",
            "export a network that was trained for longer",
        )


def predict(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|EXPORT", help="A run directory, a checkpoint folder, an exported file, or a folder of exports."
        ),
    ],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.")],
    as_json: Json = False,
) -> None:
    """Name the five likeliest classes of images.

    Exit code 3 if one cannot be decoded; the others are answered all the same.
    Open a model.pt2 only from a source that you trust: torch may run code in it.
    """
    from inceptionctl.evaluate.machine import claim_machine
    from inceptionctl.evaluate.predict import predict as predict_images
    from inceptionctl.export.opening import open_any

    machine = claim_machine()
    network, taken = open_any(source, machine.device)
    described = network.description
    predictions = predict_images(
        network.logits,
        described.class_names,
        images,
        described.preparation,
        num_threads=machine.num_threads,
    )
    if as_json:
        console.print_json({"source": str(taken), "predictions": [_prediction_json(item) for item in predictions]})
    else:
        _print_predictions(predictions)
        console.say(f"by {taken}")
    bad = [f"{item.image}: {item.reason}" for item in predictions if item.reason]
    if bad:
        raise DataError("cannot decode " + (bad[0] if len(bad) == 1 else f"{len(bad)} images:\n" + "\n".join(bad)))


def _prediction_json(item: Prediction) -> dict[str, Any]:
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
