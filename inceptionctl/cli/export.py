"""`inceptionctl export`: a trained network as files for other programs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from inceptionctl import console
from inceptionctl.cli.options import CheckpointOption, Json, WeightsOption, requested, run_named

if TYPE_CHECKING:
    from inceptionctl.export.comparison import Reference


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


def export(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|CHECKPOINT",
            help="A run directory or its name under runs/, or a checkpoint folder (also of `weights import`).",
            callback=run_named,
        ),
    ],
    formats: Annotated[
        list[Format] | None,
        typer.Option("--format", help="File format; may be repeated. The recipe's export.formats by default."),
    ] = None,
    weights: WeightsOption = "ema",
    checkpoint: CheckpointOption = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="ROOT", help="Root of the data set to verify on, with val/<class>/*; the recipe's by default."),
    ] = None,
    output: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for the files; RUN/export by default.")] = None,
    license: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Licence of the weights for README.md; the recipe's export.license by default."),
    ] = None,
    data_license: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Licence of the data set, likewise; the recipe's export.data_license by default."),
    ] = None,
    precisions: Annotated[
        list[OnnxPrecision] | None,
        typer.Option(
            "--precision", help="Precision of the ONNX file, may be repeated: model.onnx, model_fp16.onnx, model_int8.onnx."
        ),
    ] = None,
    preprocessing: Annotated[
        bool,
        typer.Option(
            "--preprocessing",
            help="Build preprocessing into the ONNX file: decoded images (uint8 N x H x W x 3) to probabilities, model_pixels.onnx.",
        ),
    ] = False,
    opset: Annotated[int | None, typer.Option(metavar="N", help="Opset of the ONNX file; 18 by default.")] = None,
    calibration_images: Annotated[int, typer.Option(min=1, metavar="N", help="Training images to calibrate int8 on.")] = 128,
    accuracy_images: Annotated[
        int, typer.Option(min=1, metavar="N", help="Validation images to measure the accuracy of fp16 and int8 on.")
    ] = 500,
    max_accuracy_loss: Annotated[
        float, typer.Option(min=0.0, metavar="POINTS", help="Largest loss of top-1 accuracy that fp16 and int8 may have.")
    ] = 1.0,
    check: Annotated[
        Literal["openvino"] | None, typer.Option(help="Also verify the ONNX file in OpenVINO; needs inceptionctl[openvino].")
    ] = None,
    as_json: Json = False,
) -> None:
    """Export a trained network in formats of other programs, each verified against the checkpoint, with a model card, README.md.

    An earlier export in the same folder is replaced; a README.md that inceptionctl did not write is kept.
    """
    from inceptionctl.stages.export import ExportRequest
    from inceptionctl.stages.export import export as export_network

    request = requested(
        locals(),
        ExportRequest,
        formats=[kind.value for kind in formats or ()],
        precisions=[precision.value for precision in precisions or ()],
    )
    done = export_network(request)
    _print_exports(done.result, done.reference, as_json)
    if done.data_without_license:
        console.say(
            f"hint: {done.card} does not state the licence of {done.data_without_license}:"
            " --data-license TEXT, or export.data_license in the recipe"
        )
    if done.card is None:
        console.warn(f"{done.folder / 'README.md'} is not from inceptionctl and was kept", "rename it to get a model card")


def _print_exports(result: console.JsonObject, reference: Reference, as_json: bool) -> None:
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
            f"largest difference: of a logit from the checkpoint's in fp32, on {reference.source};"
            f" between these images a logit varies by up to {reference.logit_spread:.3g}"
        )
        for item in result["exports"]:
            for line in _differently_compared(item):
                console.out.print(line)
            for remark in item["remarks"]:
                console.out.print(f"{item['format']}: {remark}")
    console.say(f"wrote {result['folder']}")
    if not reference.tells:
        console.warn(
            f"the logits hardly differ between images (by {reference.logit_spread:.1e}), so the comparison proves little",
            "export a network that was trained for longer",
        )


def _differently_compared(item: console.JsonObject) -> list[str]:
    """What the line about the differences does not say."""
    file, found = Path(item["path"]).name, item["accuracy"]
    if found:
        low, high = found["loss_interval"]
        return [
            f"{file}: top-1 accuracy {found['top1']:.2f}% on {found['num_images']} images, checkpoint {found['top1_checkpoint']:.2f}%"
            f" ({found['loss']:.2f} points lost, 95%: {low:.2f} to {high:.2f}); same class for"
            f" {found['agreement']:.2f}%; largest difference of a probability {found['max_probability_difference']:.2g}"
        ]
    return [f"{file}: the difference is of a probability"] if item["difference_of"] == "probability" else []
