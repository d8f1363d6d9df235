"""`inceptionctl export`: a trained network as files for other programs."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from inceptionctl import console
from inceptionctl.cli.options import CheckpointOption, Json, WeightsOption, run_named
from inceptionctl.cli.sources import refuse_missing_data, refuse_missing_network
from inceptionctl.errors import RecipeError

if TYPE_CHECKING:
    from inceptionctl.export.checking import Sample


class Format(StrEnum):
    """File formats of `export`; an enumeration because Typer takes no list of literals."""

    ONNX = "onnx"
    SAFETENSORS = "safetensors"
    PT2 = "pt2"
    TIMM = "timm"
    TRITON = "triton"
    TORCHSCRIPT = "torchscript"


class OnnxPrecision(StrEnum):
    """Numbers of an ONNX file."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


Source = Annotated[
    Path,
    typer.Argument(
        metavar="RUN|CHECKPOINT",
        help="A run directory or its name under runs/, a folder checkpoints/step-... in one, or one of `weights import`.",
        callback=run_named,
    ),
]


def export(
    source: Source,
    formats: Annotated[
        list[Format] | None,
        typer.Option("--format", help="May be repeated; the recipe's export.formats by default."),
    ] = None,
    weights: WeightsOption = "ema",
    checkpoint: CheckpointOption = None,
    data: Annotated[
        Path | None, typer.Option(metavar="ROOT", help="Folder with val/<class>/* to compare on; the recipe's by default.")
    ] = None,
    output: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for the files; RUN/export by default.")] = None,
    license: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Licence of the weights for README.md; the recipe's export.license by default."),
    ] = None,
    data_license: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Licence of the data set for it; the recipe's export.data_license by default."),
    ] = None,
    precisions: Annotated[
        list[OnnxPrecision] | None,
        typer.Option("--precision", help="Of the ONNX file; may be repeated: model.onnx, model_fp16.onnx, model_int8.onnx."),
    ] = None,
    preprocessing: Annotated[
        bool,
        typer.Option(
            "--preprocessing", help="ONNX from decoded pictures (uint8 N x H x W x 3) to probabilities: model_pixels.onnx."
        ),
    ] = False,
    opset: Annotated[int | None, typer.Option(metavar="N", help="Of the ONNX file; 18 by default.")] = None,
    calibration_images: Annotated[
        int, typer.Option(min=1, metavar="N", help="Training images that int8 takes its ranges from.")
    ] = 128,
    accuracy_images: Annotated[
        int, typer.Option(min=1, metavar="N", help="Validation images on which the loss of fp16 and int8 is measured.")
    ] = 500,
    max_accuracy_loss: Annotated[
        float,
        typer.Option(min=0.0, metavar="POINTS", help="Of top-1 accuracy; fp16 and int8 are not written when they lose more."),
    ] = 1.0,
    check: Annotated[
        Literal["openvino"] | None, typer.Option(help="Compare ONNX in OpenVINO too; needs inceptionctl[openvino].")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a trained network as files for other programs, each compared with the checkpoint first, and a model card, README.md.

    An earlier export in the same place is replaced; a README.md that is not of inceptionctl stays.
    """
    refuse_missing_network(source, checkpoint)
    refuse_missing_data(data)
    of_onnx_alone = bool(precisions or preprocessing or opset or check)
    _refuse_without_onnx([kind.value for kind in formats or ()] or ["onnx"], of_onnx_alone)

    import torch

    from inceptionctl.evaluate.machine import claim_machine
    from inceptionctl.evaluate.preparation import preparation_of
    from inceptionctl.evaluate.trained import load_trained
    from inceptionctl.export.accuracy import draw_validation
    from inceptionctl.export.card import data_license_of, dataset_name, write_card
    from inceptionctl.export.checking import draw_sample
    from inceptionctl.export.exporting import EXPORTERS
    from inceptionctl.export.exporting import export as export_trained
    from inceptionctl.export.onnx_options import OPSET, OnnxOptions, check_opset
    from inceptionctl.export.openvino_check import ask_openvino, import_openvino
    from inceptionctl.export.preprocessing import preparation_graph
    from inceptionctl.export.reduced import calibration_images as draw_calibration
    from inceptionctl.export.to_onnx import onnx_exporters

    machine = claim_machine()
    # On the CPU, where every format's program runs: exports are traced and compared in fp32.
    trained = load_trained(source, weights, torch.device("cpu"), checkpoint)
    if trained.choice and (words := trained.choice.in_words()):
        console.say(f"takes {words}")
    folder = output or (trained.run.export if trained.run else None)
    if folder is None:
        raise RecipeError(
            f"{trained.checkpoint} lies in no run directory, so there is no export folder", "name one with --output DIR"
        )
    wanted = [kind.value for kind in formats or ()] or list(trained.recipe.export.formats)
    options = [OnnxOptions(precision.value, preprocessing, opset or OPSET) for precision in precisions or [OnnxPrecision.FP32]]
    _refuse_without_onnx(wanted, of_onnx_alone)
    if opset is not None:
        check_opset(opset, preprocessing)
    if preprocessing:
        preparation_graph(preparation_of(trained.recipe), OPSET)  # whether there is one, before minutes of tracing
    if check:
        import_openvino()
    root = data or trained.recipe.data.root_path
    fewer = {item.precision for item in options} - {"fp32"}
    calibration = draw_calibration(trained, root, calibration_images, machine.num_threads) if "int8" in fewer else None
    validation = draw_validation(trained, root, accuracy_images, max_accuracy_loss, machine.num_threads) if fewer else None
    sample = draw_sample(trained, root, machine.num_threads, with_pictures=preprocessing)
    of_onnx = onnx_exporters(options, calibration, (ask_openvino,) if check else ())
    done = export_trained(
        trained,
        [name for kind in wanted for name in (of_onnx if kind == "onnx" else [kind])],
        folder,
        sample,
        lambda name: console.say(f"exporting {name} ..."),
        exporters={**EXPORTERS, **of_onnx},
        validation=validation,
    )
    card = write_card(trained, folder, done, sample.source, license, data_license)
    result = {
        "card": str(card) if card else None,
        "checkpoint": str(trained.checkpoint),
        "chosen": trained.choice and trained.choice.to_json(),
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
                "beside": list(item.beside),
                "max_difference": item.max_difference,
                "difference_of": item.of,
                "accuracy": item.accuracy.model_dump() if item.accuracy else None,
                "seconds": item.seconds,
                "remarks": list(item.remarks),
            }
            for item in done
        ],
    }
    _print_exports(result, sample, as_json)
    if card and data_license_of(trained, data_license) is None:
        console.say(
            f"hint: {card} does not state the licence of {dataset_name(trained)}: --data-license TEXT, or export.data_license in the recipe"
        )
    if card is None:
        console.warn(f"{folder / 'README.md'} is not of inceptionctl and stays as it is", "rename it to get a model card")


def _refuse_without_onnx(wanted: Sequence[str], of_onnx_alone: bool) -> None:
    if of_onnx_alone and "onnx" not in wanted:
        raise RecipeError(
            "--precision, --preprocessing, --opset and --check are of ONNX, which is not among the formats",
            "add --format onnx, or leave them out",
        )


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
            for line in _differently_compared(item):
                console.out.print(line)
            for remark in item["remarks"]:
                console.out.print(f"{item['format']}: {remark}")
    console.say(f"wrote {result['folder']}")
    if not sample.tells:
        console.warn(
            f"the logits hardly differ between images (by {sample.logit_spread:.1e}), so the comparison says little",
            "export a network that was trained for longer",
        )


def _differently_compared(item: dict[str, Any]) -> list[str]:
    """What the line about the differences does not say."""
    file, found = Path(item["path"]).name, item["accuracy"]
    if found:
        low, high = found["loss_interval"]
        return [
            f"{file}: {found['top1']:.2f}% right of {found['num_images']} validation images, {found['top1_checkpoint']:.2f}% by the"
            f" checkpoint ({found['loss']:.2f} points lost, 95%: {low:.2f} to {high:.2f}); the same class for"
            f" {found['agreement']:.2f}%; a probability differs by up to {found['max_probability_difference']:.2g}"
        ]
    return [f"{file}: the difference is of a probability"] if item["difference_of"] == "probability" else []
